use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt};

use super::*;
use crate::sandbox::{Driver, NewState, ProcessIdentity, Status};

fn id(text: &str) -> Id {
    text.parse().expect("valid id")
}

fn state(id: Id) -> State {
    State::creating(NewState {
        sandbox: id.clone(),
        id,
        monitor: ProcessIdentity::current().expect("this process has an identity"),
        bundle: "/bundle".into(),
        rootfs: "/bundle/rootfs".into(),
        cgroup: Cgroup::place(
            Driver::Cgroupfs,
            Path::new("/c"),
            &"a".parse().expect("valid id"),
            "",
        )
        .expect("a place"),
        network: None,
        annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
    })
}

#[test]
fn an_id_is_taken_once() {
    let root = tempfile::tempdir().expect("temporary folder");
    let root = root.path().join("not").join("there");
    let folder = StateFolder::create(&root, &id("a")).expect("free");
    let error = StateFolder::create(&root, &id("a")).expect_err("taken");
    assert_eq!(
        error.to_string(),
        "container with given ID already exists: a is in use"
    );
    folder.remove().expect("removable");
    StateFolder::create(&root, &id("a")).expect("free again");
}

#[test]
fn a_record_survives_and_is_replaced() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = StateFolder::create(root.path(), &id("a")).expect("free");
    assert_eq!(folder.load().expect("readable"), None);
    let mut state = state(id("a"));
    folder.save(&state).expect("writable");
    state.status = Status::Running;
    folder.save(&state).expect("writable");
    assert_eq!(folder.load().expect("readable"), Some(state));
    assert_eq!(StateFolder::all(root.path()).expect("readable").len(), 1);
    folder.remove().expect("removable");
    assert!(matches!(
        StateFolder::open(root.path(), &id("a")),
        Err(StateError::Missing(_))
    ));
}

#[test]
fn a_path_that_is_not_text_is_an_error() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = StateFolder::create(root.path(), &id("a")).expect("free");
    let mut state = state(id("a"));
    state.bundle = OsStr::from_bytes(b"/bundle\xff").into();
    let error = folder.save(&state).expect_err("no JSON").to_string();
    assert!(error.contains("invalid UTF-8"), "{error}");
}

#[test]
fn a_record_of_another_version_is_not_read() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = StateFolder::create(root.path(), &id("a")).expect("free");
    let mut state = state(id("a"));
    state.version = VERSION + 1;
    folder.save(&state).expect("writable");
    let error = folder.load().expect_err("of another version").to_string();
    assert!(
        error.ends_with("state.json: is of version 3, this program writes version 2"),
        "{error}"
    );
}

#[test]
fn a_stand_in_that_has_gone_means_stopped() {
    let mut state = state(id("a"));
    state.status = Status::Running;
    assert_eq!(state.current_status(), Status::Running);
    state.monitor.start_time += 1;
    assert_eq!(state.current_status(), Status::Stopped);
}

#[test]
fn the_cgroup_is_known_before_the_record() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = StateFolder::create(root.path(), &id("a")).expect("free");
    assert_eq!(folder.load_cgroup().expect("readable"), None);
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        let cgroup = Cgroup::place(driver, Path::new("/c"), &id("a"), "").expect("a place");
        folder.save_cgroup(&cgroup).expect("writable");
        assert_eq!(folder.load_cgroup().expect("readable"), Some(cgroup));
    }
    folder.remove().expect("removable");
}

#[test]
fn removal_leaves_what_it_does_not_know() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = StateFolder::create(root.path(), &id("a")).expect("free");
    let shared = folder.make(StateFolder::SHARED).expect("writable");
    fs::write(shared.join("precious"), "").expect("writable");
    folder.remove().expect_err("not empty");
    assert!(shared.join("precious").exists());
}

#[test]
fn whoever_waits_for_a_removal_finds_nothing() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = StateFolder::create(root.path(), &id("a")).expect("free");
    let lock = folder.lock().expect("lockable").expect("there");
    let other = folder.clone();
    let waiting = std::thread::spawn(move || other.lock().expect("lockable").is_some());
    folder.remove().expect("removable");
    drop(lock);
    assert!(
        !waiting.join().expect("no panic"),
        "the removed container is there"
    );
}
