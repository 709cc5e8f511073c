use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, net::UnixListener},
    path::Path,
};

use bulkhead_agent_protocol::spec::When;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{bundle::parse, refuse::refuse_unsupported_process, spec::drop_nulls, *};

/// A bundle folder with a root file system and the smallest good document, changed by `change`.
fn bundle(change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::create_dir(folder.path().join("rootfs")).expect("folder");
    let mut document = good();
    change(&mut document);
    write(folder.path(), &document.to_string());
    folder
}

fn good() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"], "cwd": "/"},
        "root": {"path": "rootfs"},
    })
}

fn write(folder: &Path, text: &str) {
    fs::write(folder.join("config.json"), text).expect("writable");
}

/// The error's text, in which the bundle's folder is `B`.
fn error_of(folder: &Path) -> String {
    let text = Bundle::load(folder).expect_err("the bundle is bad").to_string();
    let folder = folder.canonicalize().unwrap_or(folder.to_owned());
    text.replace(folder.to_str().expect("UTF-8"), "B")
}

fn error(change: impl FnOnce(&mut Value)) -> String {
    error_of(bundle(change).path())
}

#[test]
fn the_smallest_bundle_is_good() {
    let folder = bundle(|_| {});
    let loaded = Bundle::load(folder.path()).expect("good");
    assert_eq!(loaded.rootfs, loaded.folder.join("rootfs"));
    assert_eq!(loaded.document, good());
    assert!(loaded.binds.is_empty());
}

#[test]
fn what_spec_writes_is_good() {
    let folder = bundle(|_| {});
    write(folder.path(), DEFAULT_CONFIG);
    let loaded = Bundle::load(folder.path()).expect("good");
    assert!(loaded.spec.process.is_some_and(|process| process.terminal));
    assert_eq!(loaded.spec.oci_version, OCI_VERSION);
}

#[test]
fn every_version_1_is_good() {
    for version in ["1.0.0", "1.0.2-dev", "1.3.0", "1.99.0", "1.2.0-rc.1+build"] {
        let folder = bundle(|document| document["ociVersion"] = json!(version));
        Bundle::load(folder.path()).expect(version);
    }
}

#[test]
fn a_bundle_that_is_not_there_or_has_no_document_says_so() {
    assert_eq!(
        error_of(Path::new("/nonexistent/bundle")),
        "bundle B: No such file or directory (os error 2)"
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    assert_eq!(
        error_of(folder.path()),
        "B/config.json: no such file; a bundle is a folder with a config.json, which `bulkhead spec` can write"
    );
    fs::create_dir(folder.path().join("config.json")).expect("folder");
    assert_eq!(error_of(folder.path()), "B/config.json: it is not a regular file");
}

#[test]
fn a_bundle_whose_path_is_not_text_says_so() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let bundle = folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir_all(bundle.join("rootfs")).expect("folder");
    write(&bundle, &good().to_string());
    let error = Bundle::load(&bundle).expect_err("not text").to_string();
    assert!(
        error.ends_with("the path is not UTF-8; rename or move the folder"),
        "{error}"
    );
}

#[test]
fn a_document_that_the_guest_cannot_be_sent_is_refused() {
    let text = error(|document| document["annotations"] = json!({"a": "x".repeat(3 << 20)}));
    assert_eq!(
        text,
        "B/config.json: longer than the 3 MiB that a guest can be sent"
    );
    let nested = bundle(|_| {});
    write(nested.path(), &"[".repeat(3 << 20));
    assert!(error_of(nested.path()).contains("recursion limit"));
}

#[test]
fn what_is_not_json_names_line_and_column() {
    let folder = bundle(|_| {});
    write(folder.path(), "{\n  \"ociVersion\": 1.2.0\n}");
    assert_eq!(
        error_of(folder.path()),
        "B/config.json: not valid JSON: expected `,` or `}` at line 2 column 20"
    );
    write(folder.path(), "");
    assert_eq!(
        error_of(folder.path()),
        "B/config.json: not valid JSON: EOF while parsing a value at line 1 column 0"
    );
}

#[test]
fn a_wrong_type_names_the_field() {
    assert_eq!(
        error(|d| d["process"]["args"] = json!(["sh", 5])),
        "B/config.json: process.args[1]: invalid type: integer `5`, expected a string"
    );
    assert_eq!(
        error(|d| d["process"]["user"] = json!({"uid": "root"})),
        "B/config.json: process.user.uid: invalid type: string \"root\", expected u32"
    );
    let folder = bundle(|_| {});
    write(folder.path(), "[]");
    assert!(error_of(folder.path()).starts_with("B/config.json: "));
}

#[test]
fn wrong_fields_are_named() {
    let cases: &[(&str, Value, &str)] = &[
        (
            "/ociVersion",
            json!("2.0.0"),
            "ociVersion: \"2.0.0\" is not supported, only version 1 of the specification is",
        ),
        (
            "/ociVersion",
            json!(""),
            "ociVersion: missing; this is bulkhead for version 1 of the specification",
        ),
        (
            "/ociVersion",
            json!("1"),
            "ociVersion: \"1\" is not a version, which looks like \"1.2.0\"",
        ),
        (
            "/ociVersion",
            json!("1.x.0"),
            "ociVersion: \"1.x.0\" is not a version, which looks like \"1.2.0\"",
        ),
        (
            "/process/args",
            json!([]),
            "process.args: empty; its first item is the program to run",
        ),
        (
            "/process/args",
            json!([""]),
            "process.args: empty; its first item is the program to run",
        ),
        (
            "/process/cwd",
            json!("tmp"),
            "process.cwd: \"tmp\" is not an absolute path in the container",
        ),
        (
            "/process/cwd",
            json!(""),
            "process.cwd: \"\" is not an absolute path in the container",
        ),
        (
            "/root/path",
            json!(""),
            "root.path: empty; it names the root file system's folder",
        ),
        ("/root/path", json!("no"), "root.path: B/no does not exist"),
        (
            "/root/path",
            json!("config.json"),
            "root.path: B/config.json is not a folder",
        ),
        (
            "/root/path",
            json!("config.json/x"),
            "root.path: B/config.json/x leads through a file that is not a folder",
        ),
    ];
    for (pointer, value, expected) in cases {
        let text = error(|document| *document.pointer_mut(pointer).expect("there") = value.clone());
        assert_eq!(text, format!("B/config.json: {expected}"));
    }
}

#[test]
fn missing_sections_are_named() {
    for (section, expected) in [
        ("process", "process: missing; it says which program to run"),
        ("root", "root: missing; it says where the root file system is"),
    ] {
        let text = error(|document| {
            document.as_object_mut().expect("an object").remove(section);
        });
        assert_eq!(text, format!("B/config.json: {expected}"));
    }
}

#[test]
fn bind_mounts_are_checked_and_told_from_others() {
    let folder = bundle(|document| {
        document["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/a", "type": "bind", "source": "rootfs", "options": ["ro"]},
            {"destination": "/b", "source": "config.json", "options": ["rbind", "ro", "rw", "rro"]},
        ]);
    });
    let loaded = Bundle::load(folder.path()).expect("good");
    let at = |name| loaded.folder.join(name);
    assert_eq!(
        loaded.binds,
        [
            BindSource {
                index: 1,
                path: at("rootfs"),
                is_folder: true,
                recursive: false,
                read_only: true,
                read_only_below: false,
                mappings: None,
            },
            BindSource {
                index: 2,
                path: at("config.json"),
                is_folder: false,
                recursive: true,
                read_only: false,
                read_only_below: true,
                mappings: None,
            },
        ]
    );
}

#[test]
fn wrong_mounts_are_named() {
    let with = |mount: Value| error(|document| document["mounts"] = json!([mount]));
    assert_eq!(
        with(json!({"destination": "a", "type": "tmpfs"})),
        "B/config.json: mounts[0].destination: \"a\" is not an absolute path in the container"
    );
    assert_eq!(
        with(json!({"destination": "/a", "type": "bind", "source": "/nonexistent"})),
        "B/config.json: mounts[0].source: /nonexistent does not exist"
    );
    assert_eq!(
        with(json!({"destination": "/a", "options": ["bind"]})),
        "B/config.json: mounts[0].source: empty; a bind mount needs a path on the host"
    );
    let folder =
        bundle(|document| document["mounts"] = json!([{"destination": "/s", "type": "bind", "source": "s"}]));
    let _listener = UnixListener::bind(folder.path().join("s")).expect("a socket");
    assert_eq!(
        error_of(folder.path()),
        "B/config.json: mounts[0].source: B/s is a socket, which cannot be reached from a virtual machine"
    );
}

#[test]
fn what_is_behind_a_name_on_the_host_only_is_no_bind_source() {
    let folder = bundle(|document| {
        document["mounts"] = json!([
            {"destination": "/masked", "type": "bind", "source": "/dev/null"},
            {"destination": "/p", "type": "bind", "source": "p"},
        ]);
    });
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("p"), mode).expect("a pipe");
    assert_eq!(
        error_of(folder.path()),
        "B/config.json: mounts[1].source: B/p is a named pipe, which cannot be reached from a virtual machine"
    );
    let device = error(|document| {
        document["mounts"] = json!([{"destination": "/p", "type": "bind", "source": "/dev/ptmx"}]);
    });
    assert!(device.contains("/dev/ptmx is a character device"), "{device}");
}

#[test]
fn a_cgroups_path_stays_in_the_tree() {
    let text = error(|document| document["linux"] = json!({"cgroupsPath": "/a/../../etc"}));
    assert_eq!(
        text,
        "B/config.json: linux.cgroupsPath: \"/a/../../etc\" leaves the cgroup tree by \"..\""
    );
}

/// A document in which the field at `path` has a value.
fn having(path: &str, value: Value) -> Value {
    path.rsplit('.')
        .fold(value, |value, segment| match segment.strip_suffix("[]") {
            Some(name) => json!({name: [{"unrelated": 1}, value]}),
            None => json!({segment: value}),
        })
}

#[test]
fn every_unsupported_field_is_refused_by_name() {
    for (path, refusal) in refusals() {
        let values = match refusal.when {
            When::Present => vec![json!({}), json!(0)],
            When::Says => vec![json!("something"), json!(7), json!(true), json!([{"a": "b"}])],
            When::HasMember => vec![json!({"eth0": {}})],
            When::IsFalse => vec![json!(false)],
            When::Is(word) => vec![json!(word), json!(["other", word])],
        };
        for value in values {
            let error = refuse_unsupported(&having(path, value)).expect_err(path);
            assert_eq!(error.field, path.replace("[]", "[1]"));
            assert_eq!(
                error.problem,
                format!("{}; remove it from config.json", refusal.reason)
            );
        }
    }
}

#[test]
fn a_further_process_is_refused_what_the_first_is() {
    let error = refuse_unsupported_process(&json!({"selinuxLabel": "a:b:c"})).expect_err("a label");
    assert_eq!(error.field, "process.selinuxLabel");
    let error = refuse_unsupported_process(&json!({"user": {"username": "x"}})).expect_err("a name");
    assert_eq!(error.field, "process.user.username");
    refuse_unsupported_process(&json!({"hooks": {"prestart": [{"path": "/x"}]}, "args": ["a"]}))
        .expect("no such property of a process");
}

#[test]
fn an_empty_field_is_not_refused() {
    let document = json!({
        "hooks": {"prestart": []},
        "vm": {"hypervisor": {"path": ""}, "kernel": {"path": ""}, "image": {"path": "", "format": ""}},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network", "path": ""}],
            "netDevices": {},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}],
            },
            "resources": {
                "memory": {"kernel": 0, "disableOOMKiller": false, "useHierarchy": true},
                "network": {"classID": 0, "priorities": []}, "rdma": {},
            },
        },
    });
    refuse_unsupported(&document).expect("it says nothing");
}

#[test]
fn unknown_properties_are_kept_and_nulls_are_not() {
    let mut document = json!({"a": null, "x": {"y": [null, {"z": null, "w": 1}]}});
    drop_nulls(&mut document);
    assert_eq!(document, json!({"x": {"y": [null, {"w": 1}]}}));
}

#[test]
fn the_guest_is_told_its_own_paths() {
    let folder = bundle(|document| {
        document["annotations"] = json!({"k": "v"});
        document["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "config.json", "options": ["ro"]},
        ]);
    });
    let loaded = Bundle::load(folder.path()).expect("good");
    let guest = for_guest(
        loaded.document.clone(),
        loaded.sources_in_guest(GuestPaths::new("web")),
        &[],
        GuestPaths::new("web"),
    );
    let mut expected = loaded.document;
    expected["root"]["path"] = json!("/run/bulkhead/shared/web/rootfs");
    expected["mounts"][1]["source"] = json!("/run/bulkhead/shared/web/mounts/1");
    assert_eq!(guest, expected);
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        "[a-z]{0,3}",
        prop::sample::select(vec![
            "ociVersion",
            "process",
            "args",
            "cwd",
            "root",
            "path",
            "mounts",
            "destination",
            "source",
            "options",
            "type",
            "linux",
            "namespaces",
            "resources",
            "memory",
            "limit",
            "cpu",
            "quota",
            "hooks",
            "vm",
            "seccomp",
            "cgroupsPath",
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["1.0.0", "/", "..", "bind", "rbind", "rootfs"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(names.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// All that is done with a document, short of starting a microVM.
fn handle(document: Value) {
    let folder = Path::new("/");
    let refused = refuse_unsupported(&document);
    if let Ok(spec) = Spec::view(&document)
        && validate(&spec, folder).is_ok()
    {
        let _ = for_guest(document, vec![(0, String::new())], &[], GuestPaths::new("a"));
    }
    drop(refused);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(document) = parse(&bytes) {
            handle(document);
        }
    }

    #[test]
    fn no_document_panics(document in arbitrary_json()) {
        handle(document);
    }

    #[test]
    fn no_changed_document_panics(
        pointer in prop::sample::select(vec![
            "", "/ociVersion", "/process", "/process/args", "/process/consoleSize", "/root", "/root/path", "/mounts", "/mounts/0",
            "/mounts/0/options", "/linux", "/linux/namespaces", "/linux/namespaces/0", "/linux/resources",
        ]),
        value in arbitrary_json(),
    ) {
        let mut document: Value = serde_json::from_str(DEFAULT_CONFIG).expect("the default is JSON");
        if let Some(place) = document.pointer_mut(pointer) {
            *place = value;
        }
        handle(document);
    }

    #[test]
    fn a_truncated_document_is_an_error(length in 0..DEFAULT_CONFIG.trim_end().len()) {
        prop_assert!(parse(&DEFAULT_CONFIG.as_bytes()[..length]).is_err());
    }
}
