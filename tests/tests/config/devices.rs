//! Device nodes, and who may use them.

use std::fs;

use bulkhead_tests::harness::Host;
use serde_json::json;

use super::checks::{bundle, check, refused, run};

#[test]
fn devices_are_made_as_described() {
    check(
        |config| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 7, "gid": 8},
                {"path": "/dev/net/tun", "type": "u", "major": 10, "minor": 200, "fileMode": 384},
                {"path": "/run/pipe", "type": "p", "fileMode": 416},
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438},
            ]);
            config["process"]["capabilities"] = json!({
                "bounding": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"],
            });
            config["linux"]["resources"] = json!({"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "m"},
            ]});
        },
        &[
            (
                "linux.devices",
                "cd /dev; stat -c '%n %F %t:%T %a %u:%g' fuse net/tun /run/pipe",
                "fuse character special file a:e5 666 7:8\n\
                 net/tun character special file a:c8 600 0:0\n\
                 /run/pipe fifo 0:0 640 0:0",
            ),
            (
                "linux.resources.devices",
                ": < /dev/fuse && echo opened",
                "opened",
            ),
            (
                "linux.resources.devices",
                "cat /dev/net/tun",
                "cat: can't open '/dev/net/tun': Operation not permitted",
            ),
            (
                "linux.resources.devices",
                "mknod /tmp/kmsg c 1 11 && echo made",
                "made",
            ),
            (
                "linux.resources.devices",
                "cat /tmp/kmsg",
                "cat: can't open '/tmp/kmsg': Operation not permitted",
            ),
            ("default devices", "head -c 1 /dev/zero | wc -c", "1"),
        ],
    );
}

#[test]
fn a_device_of_the_host_is_refused() {
    refused(
        |config| {
            config["linux"]["devices"] =
                json!([{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}]);
        },
        &[
            "config.json: linux.devices[0]",
            "/dev/kvm",
            "10:232",
            "virtual machine",
        ],
    );
}

#[test]
fn another_file_in_the_place_of_a_device_is_an_error() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["linux"]["devices"] = json!([{"path": "/etc/device", "type": "c", "major": 1, "minor": 3}]);
    });
    fs::write(bundle.rootfs().join("etc/device"), "").unwrap();
    let line = host.run(&bundle).output().refusal();
    assert!(
        line.contains("/etc/device") && line.contains("another file"),
        "{line}"
    );
}

/// The cgroup of a container that may write to it is its user's, like that of a login session.
#[test]
fn a_writable_cgroup_is_its_users() {
    let host = Host::new();
    let checks = [
        (
            "owner",
            "cd /sys/fs/cgroup; stat -c %u . cgroup.procs cgroup.subtree_control memory.max",
            "7\n7\n7\n0",
        ),
        (
            "use",
            "mkdir /sys/fs/cgroup/inner && echo 0 > /sys/fs/cgroup/inner/cgroup.procs && cat /proc/self/cgroup",
            "0::/inner",
        ),
    ];
    let bundle = bundle(
        &host,
        |config| {
            config["process"]["user"] = json!({"uid": 7, "gid": 7});
            let mounts = config["mounts"].as_array_mut().expect("a list");
            let cgroup = mounts
                .iter_mut()
                .find(|mount| mount["type"] == "cgroup")
                .expect("a cgroup");
            cgroup["options"] = json!(["nosuid", "rw"]);
        },
        &checks,
    );
    run(&host, &bundle, &checks);
}
