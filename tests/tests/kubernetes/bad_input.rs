//! What cannot be run is refused with the cause in the error's text, which is what `kubectl describe` shows, and leaves nothing
//! behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use bulkhead_tests::harness::Image;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::node::Node;
use crate::pod::Pod;

/// Where the runtime keeps what it knows of containers.
const STATE: &str = "/run/containerd/bulkhead";

/// The ids of the containers that the runtime knows.
fn known() -> Vec<String> {
    let folder = fs::read_dir(Path::new(STATE).join("k8s.io")).expect("the runtime's state");
    folder
        .map(|entry| entry.unwrap().file_name().into_string().expect("an id"))
        .collect()
}

/// Creates and starts a container that cannot be; gives the error's text. Nothing but the pod is there then.
#[track_caller]
fn refused(pod: &Pod, edit: impl FnOnce(&mut Value)) -> String {
    let message = match pod.try_create(edit) {
        Err(status) => status.message,
        Ok(container) => {
            let status = container.start().expect_err("it cannot start");
            assert!(!container.is_running());
            container.remove();
            status.message
        }
    };
    assert_eq!(known(), [&*pod.id], "{message}");
    message
}

#[track_caller]
fn assert_words(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

/// Another pod on the node, with this annotation, cannot be; gives the error's text.
#[track_caller]
fn refused_pod(node: &Node, annotation: (&str, &str)) -> String {
    let refused = node.try_pod(|config| config["annotations"] = json!({annotation.0: annotation.1}));
    let message = refused.err().expect("it cannot start").message;
    assert_eq!(node.containerd.leftovers(), Vec::<String>::new(), "{message}");
    message
}

#[test]
fn annotations_choose_a_machine_within_what_the_node_allows() {
    let node = Node::new();
    for (annotation, words) in [
        (
            ("dev.bulkhead.vm.kernel.path", "/etc/passwd"),
            ["vm.kernel.path: /etc/passwd", "vm_paths"],
        ),
        (
            (
                "dev.bulkhead.vm.image.path",
                "/usr/share/bulkhead/../../../etc/passwd",
            ),
            ["vm.image.path", "/etc/passwd"],
        ),
        (
            ("dev.bulkhead.vm.hwConfig.memory", "1Gi"),
            [
                "annotations.dev.bulkhead.vm.hwConfig.memory: \"1Gi\"",
                "not a number",
            ],
        ),
        (
            ("dev.bulkhead.vm.hwConfig.memory", "1125899906842624"),
            ["vm.hwConfig.memory", "the host has"],
        ),
        (
            ("dev.bulkhead.vm.hwconfig", "1"),
            ["annotations.dev.bulkhead.vm.hwconfig", "hwConfig.vcpus"],
        ),
    ] {
        assert_words(&refused_pod(&node, annotation), &words);
    }
    let pod = node.pod(|config| {
        config["annotations"] = json!({
            "dev.bulkhead.vm.hwConfig.vcpus": "2",
            "dev.bulkhead.vm.hwConfig.memory": "201326592",
            "dev.bulkhead.vm.kernel.parameters": "test.one=1  test.two=2",
        });
    });
    let container = pod
        .run("nproc; awk '{print $NF}' /proc/cmdline; awk '/MemTotal/ {print ($2 < 196608)}' /proc/meminfo");
    assert_eq!(container.success(), "2\ntest.two=2\n1\n");
    pod.remove();
}

#[test]
fn what_a_machine_cannot_do_is_named() {
    let node = Node::new();
    let socket = node.volume("sockets").join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let pod = node.pod(|_| ());
    let with = |edit: &dyn Fn(&mut Value)| {
        refused(&pod, |config| {
            config["command"] = json!(["true"]);
            edit(config);
        })
    };
    let message = with(&|config| {
        config["devices"] =
            json!([{"container_path": "/dev/kvm", "host_path": "/dev/kvm", "permissions": "rwm"}]);
    });
    assert_words(&message, &["linux.devices", "/dev/kvm", "device of the host"]);
    let message = with(&|config| {
        config["mounts"] = json!([{"container_path": "/socket", "host_path": socket}]);
    });
    assert_words(&message, &["mounts[", socket.to_str().unwrap(), "socket"]);
    let message = with(&|config| config["linux"]["resources"]["cpuset_cpus"] = json!("0"));
    assert_words(&message, &["linux.resources.cpu.cpus"]);
    let fine = pod.run("echo fine");
    assert_eq!(fine.success(), "fine\n");
    pod.remove();
}

#[test]
fn a_program_that_cannot_be_run_is_named() {
    let missing = Image::new("localhost/missing:1", &["/no/such/entrypoint"]);
    let mut stranger = Image::new("localhost/stranger:1", &["true"]);
    stranger.config["User"] = json!("a-stranger");
    let node = Node::with_images(&[missing.clone(), stranger.clone()]);
    let programs = node.volume("programs");
    let program = |name: &str, mode: u32| {
        let path = programs.join(name);
        fs::write(&path, "neither ELF nor a script").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    program("plain", 0o644);
    program("garbage", 0o755);
    let pod = node.pod(|_| ());
    let of_image = |image: &Image| refused(&pod, |config| config["image"]["image"] = json!(image.name));
    assert_words(
        &of_image(&missing),
        &["/no/such/entrypoint", "no such file or directory"],
    );
    // containerd looks the user up, in a file that the image does not have.
    assert_words(
        &of_image(&stranger),
        &["/etc/passwd", "no such file or directory"],
    );
    let run = |command: &str, edit: &dyn Fn(&mut Value)| {
        refused(&pod, |config| {
            config["command"] = json!([command]);
            config["mounts"] = json!([{"container_path": "/programs", "host_path": programs}]);
            edit(config);
        })
    };
    let message = run("/programs/plain", &|_| ());
    assert_words(&message, &["/programs/plain", "permission denied"]);
    let message = run("/programs/garbage", &|_| ());
    assert_words(&message, &["/programs/garbage", "exec format error"]);
    let message = run("/programs", &|_| ());
    assert_words(&message, &["exec /programs: ", "is a directory"]);
    let message = run("true", &|config| config["working_dir"] = json!("/bin/busybox"));
    assert_words(&message, &["/bin/busybox", "not a directory"]);
    let fine = pod.run("echo fine");
    assert_eq!(fine.success(), "fine\n");
    pod.remove();
}

/// The folder that an overlay has on top, of a container that has not been started.
fn upper_folder(node: &Node, container: &str) -> PathBuf {
    let mounts = node.containerd.ctr([
        "--namespace",
        "k8s.io",
        "snapshots",
        "mounts",
        "/target",
        container,
    ]);
    let mounts = mounts.output().success();
    let (_, from) = mounts.split_once("upperdir=").expect("an overlay");
    from.split([',', ' ']).next().expect("a path").into()
}

#[test]
fn a_root_file_system_that_has_vanished_is_named() {
    let node = Node::new();
    let pod = node.pod(|_| ());
    let container = pod
        .try_create(|config| config["command"] = json!(["true"]))
        .unwrap();
    let upper = upper_folder(&node, &container.id);
    let away = upper.with_extension("away");
    fs::rename(&upper, &away).unwrap();
    let message = container.start().expect_err("there is no root").message;
    assert_words(
        &message,
        &["rootfs", upper.to_str().unwrap(), "No such file or directory"],
    );
    assert_eq!(known(), [&*pod.id]);
    fs::rename(&away, &upper).unwrap();
    container.remove();

    // It goes while the container runs: that is the container's misfortune, and nobody else's.
    let running = pod.run("echo up; until [ -e /gone ]; do sleep 0.1; done; echo down");
    running.wait_for("up\n");
    let upper = upper_folder(&node, &running.id);
    fs::write(upper.join("gone"), "").unwrap();
    fs::remove_dir_all(&upper).unwrap();
    running.stop(0);
    running.remove();
    let fine = pod.run("echo fine");
    assert_eq!(fine.success(), "fine\n");
    pod.remove();
}

#[test]
fn a_full_disk_is_named() {
    const FULL: &str = "No space left on device";
    let node = Node::new();
    fs::create_dir_all(STATE).unwrap();
    let small = Some("tmpfs");
    mount(small, STATE, small, MsFlags::empty(), Some("size=256k")).unwrap();
    let volume = node.volume("volume");
    mount(small, &volume, small, MsFlags::empty(), Some("size=64k")).unwrap();
    let filler = Path::new(STATE).join("filler");
    let fill = || {
        assert!(fs::write(&filler, [0; 1 << 20]).is_err(), "the disk is full now");
    };

    fill();
    let message = node.try_pod(|_| ()).err().expect("there is no room").message;
    assert_words(&message, &[FULL, STATE]);
    fs::remove_file(&filler).unwrap();
    let pod = node.pod(|_| ());
    fill();
    let message = refused(&pod, |config| config["command"] = json!(["true"]));
    assert_words(&message, &[FULL, STATE]);
    fs::remove_file(&filler).unwrap();

    // A container meets a full volume as a program of the host does.
    let writer = pod.run_with(|config| {
        config["mounts"] = json!([{"container_path": "/volume", "host_path": volume}]);
        config["command"] = json!(["dd", "if=/dev/zero", "of=/volume/file", "bs=64k", "count=2"]);
    });
    assert_eq!(writer.wait().exit_code, 1);
    assert_words(&writer.output("stderr"), &["/volume/file", FULL]);
    pod.remove();
    umount2(&volume, MntFlags::empty()).unwrap();
    umount2(STATE, MntFlags::empty()).unwrap();
}

#[test]
fn a_node_that_cannot_start_machines_says_why() {
    let node = Node::new();
    let settings = "/etc/bulkhead/config.toml";
    let good: toml::Table = fs::read_to_string(settings).unwrap().parse().unwrap();
    let with = |key: &str, value: &str| {
        let mut bad = good.clone();
        bad.insert(key.into(), value.into());
        fs::write(settings, bad.to_string()).unwrap();
        let refused = node.try_pod(|_| ()).err().expect("it cannot start");
        assert_eq!(node.containerd.leftovers(), Vec::<String>::new());
        refused.message
    };
    let message = with("kernel", "/no/such/kernel");
    assert_words(&message, &["/no/such/kernel", "No such file or directory"]);
    let message = with("kernel", settings);
    assert_words(&message, &[settings, "not an uncompressed kernel"]);
    let message = with("no_such_setting", "1");
    assert_words(&message, &["no_such_setting"]);
    fs::write(settings, good.to_string()).unwrap();
    let pod = node.pod(|_| ());
    pod.remove();
}
