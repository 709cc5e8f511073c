//! linux.namespaces, the mappings of users, the offsets of clocks, sysctl.

use std::{fs, os::unix::fs::MetadataExt};

use bulkhead_tests::harness::Host;
use serde_json::{Value, json};

use super::checks::{bundle, check, push, refused, run};

/// The numbers that the kernel gives the namespaces it begins with.
const FIRST: &str = "for kind in ipc:4026531839 uts:4026531838 user:4026531837 pid:4026531836 cgroup:4026531835 \
    time:4026531834; do name=${kind%:*}; test $(readlink /proc/self/ns/$name) = \"$name:[${kind#*:}]\" && echo $name; done";

fn namespaces(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({"type": kind})).collect()
}

#[test]
fn each_namespace_asked_for_is_the_containers_own() {
    check(
        |config| {
            let kinds = ["mount", "pid", "network", "ipc", "uts", "cgroup", "time", "user"];
            let ids = json!([
                {"containerID": 0, "hostID": 100_000, "size": 1000},
                {"containerID": 5000, "hostID": 300_000, "size": 1},
            ]);
            config["linux"]["namespaces"] = namespaces(&kinds);
            config["linux"]["uidMappings"] = ids.clone();
            config["linux"]["gidMappings"] = ids;
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 864_000, "nanosecs": 5}});
            config["linux"]["sysctl"] = json!({
                "kernel.msgmax": "4242", "fs.mqueue.msg_max": "11", "net.ipv4.ip_default_ttl": "77",
                "kernel/domainname": "by.sysctl",
            });
        },
        &[
            ("linux.namespaces", FIRST, ""),
            (
                "pid",
                "echo $(cat /proc/1/comm); ls -d /proc/[0-9]* | wc -l | grep -cE '^[1-9]$'",
                "sh\n1",
            ),
            ("cgroup", "cat /proc/1/cgroup", "0::/"),
            ("user", "id -u", "0"),
            (
                "linux.uidMappings",
                "awk '{print $1, $2, $3}' /proc/self/uid_map",
                "0 100000 1000\n5000 300000 1",
            ),
            (
                "linux.gidMappings",
                "awk '{print $1, $2, $3}' /proc/self/gid_map",
                "0 100000 1000\n5000 300000 1",
            ),
            (
                "linux.timeOffsets",
                "awk '{print ($1 > 864000 && $1 < 900000)}' /proc/uptime",
                "1",
            ),
            (
                "linux.sysctl",
                "cat /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max",
                "4242\n11",
            ),
            (
                "linux.sysctl",
                "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/domainname",
                "77\nby.sysctl",
            ),
        ],
    );
}

#[test]
fn a_namespace_not_asked_for_is_the_guests() {
    check(
        |config| {
            config.as_object_mut().expect("an object").remove("hostname");
            config["linux"]["namespaces"] = namespaces(&["mount"]);
        },
        &[
            ("linux.namespaces", FIRST, "ipc\nuts\nuser\npid\ncgroup\ntime"),
            ("pid", "cat /proc/1/comm", "init"),
            ("cgroup", "grep -c '^0::/.' /proc/self/cgroup", "1"),
        ],
    );
}

/// What the guest's root may do to a shared folder is done as the user that it is mapped to.
#[test]
fn files_of_a_mapped_root_are_the_mapped_users() {
    let host = Host::new();
    let checks = [
        (
            "user",
            "id -u; touch /data/made && stat -c %u:%g /data/made",
            "0\n0:0",
        ),
        ("unmapped", "stat -c %u /data", "0"),
        ("own", "stat -c %u /data/other", "65534"),
    ];
    let data = host.directory("data");
    std::os::unix::fs::chown(&data, Some(100_000), Some(200_000)).unwrap();
    fs::write(data.join("other"), "").unwrap();
    let bundle = bundle(
        &host,
        |config| {
            push(
                config,
                "mounts",
                json!({"destination": "/data", "source": data, "options": ["bind"]}),
            );
            config["linux"]["namespaces"] = namespaces(&["mount", "pid", "uts", "ipc", "user"]);
            config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        },
        &checks,
    );
    // A user of the guest that owns nothing of the image cannot make it.
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    run(&host, &bundle, &checks);
    let made = fs::metadata(data.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_000, 200_000));
}

#[test]
fn what_namespaces_cannot_be_is_refused() {
    let list = |namespaces: Value, words: &[&str]| {
        refused(|config| config["linux"]["namespaces"] = namespaces, words);
    };
    list(
        json!([{"type": "mount"}, {"type": "future"}]),
        &["config.json: linux.namespaces[1].type", "future"],
    );
    list(
        json!([{"type": "mount"}, {"type": "pid"}, {"type": "mount"}]),
        &["config.json: linux.namespaces[2].type", "second mount"],
    );
    for kind in ["mount", "user", "cgroup", "time", "ipc", "uts", "pid"] {
        list(
            json!([{"type": kind, "path": format!("/proc/1/ns/{kind}")}]),
            &["config.json: linux.namespaces[0].path", kind],
        );
    }
    refused(
        |config| {
            config["linux"]["namespaces"] = namespaces(&["mount"]);
            config["hostname"] = json!("x");
        },
        &["hostname", "uts namespace"],
    );
    refused(
        |config| config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]),
        &["linux.uidMappings", "user namespace"],
    );
    refused(
        |config| config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}}),
        &["linux.timeOffsets", "time namespace"],
    );
    refused(
        |config| config["linux"]["sysctl"] = json!({"vm.swappiness": "1"}),
        &["linux.sysctl", "vm.swappiness", "no namespace"],
    );
}
