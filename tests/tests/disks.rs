//! Block devices of the host's are disks of the guest: as device nodes, bind-mounted, and with file systems on them.

use std::fs;
use std::process::Command;

use bulkhead_tests::harness::{Host, Loop};
use serde_json::{Value, json};

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn node(disk: &Loop, path: &str) -> Value {
    let (major, minor) = disk.number();
    json!({
        "path": path, "type": "b", "major": major, "minor": minor,
        "fileMode": 0o640, "uid": 0, "gid": 1001,
    })
}

fn rule(disk: &Loop, access: &str) -> Value {
    let (major, minor) = disk.number();
    json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access})
}

#[test]
fn nodes_binds_and_file_systems() {
    let host = Host::new();
    let (named, bound, locked) = (
        Loop::new(&host, "named"),
        Loop::new(&host, "bound"),
        Loop::new(&host, "locked"),
    );
    let content = host.directory("content");
    fs::write(content.join("old"), "from the host\n").unwrap();
    let image = host.folder().join("ext4");
    let (folder, path) = (content.to_str().unwrap(), image.to_str().unwrap());
    run(
        "/usr/sbin/mke2fs",
        &["-q", "-t", "ext4", "-d", folder, path, "16M"],
    );
    let ext4 = Loop::over(&image);

    let bundle = host.bundle(|config| {
        let script = "stat -c '%a %u %g %F' /dev/named
            printf 'by its node' | dd of=/dev/named conv=notrunc 2>/dev/null
            printf 'by a bind' | dd of=/mnt/bound conv=notrunc 2>/dev/null
            (dd if=/mnt/locked of=/dev/null) 2>/dev/null || echo denied
            cat /data/old; grep -o 'noexec.* - ext4' /proc/self/mountinfo | cut -d, -f1
            echo 'from the guest' > /data/new";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["devices"] = json!([node(&named, "/dev/named")]);
        config["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"}, rule(&named, "rw"), rule(&bound, "rw"),
        ]});
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/mnt/bound", "type": "bind", "source": bound.node(), "options": ["bind"]}));
        mounts.push(json!({"destination": "/mnt/locked", "source": locked.node(), "options": ["bind"]}));
        mounts.push(json!({
            "destination": "/data", "type": "ext4", "source": ext4.node(), "options": ["noexec", "errors=remount-ro"],
        }));
    });
    let output = host.run(&bundle).output().success();
    let expected = "640 0 1001 block special file\ndenied\nfrom the host\nnoexec\n";
    assert_eq!(output, expected);
    assert!(fs::read(named.node()).unwrap().starts_with(b"by its node"));
    assert!(fs::read(bound.node()).unwrap().starts_with(b"by a bind"));
    let new = run(
        "/usr/sbin/debugfs",
        &["-R", "cat /new", ext4.node().to_str().unwrap()],
    );
    assert_eq!(new, "from the guest\n");
}

#[test]
fn what_may_only_be_read_is_not_written_to() {
    let host = Host::new();
    let disk = Loop::new(&host, "disk");
    let bundle = host.bundle(|config| {
        let script = "cat /sys/block/vda/ro
            dd if=/dev/disk of=/dev/null 2>/dev/null && echo read
            (echo x | dd of=/dev/disk) 2>/dev/null || echo refused";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["devices"] = json!([node(&disk, "/dev/disk")]);
        config["linux"]["resources"] =
            json!({"devices": [{"allow": false, "access": "rwm"}, rule(&disk, "r")]});
    });
    assert_eq!(host.run(&bundle).output().success(), "1\nread\nrefused\n");
    assert!(fs::read(disk.node()).unwrap().iter().all(|byte| *byte == 0));
}

/// An engine lists all that the host has.
#[test]
fn a_privileged_container_has_only_those_that_it_mounts() {
    let host = Host::new();
    let (listed, bound) = (Loop::new(&host, "listed"), Loop::new(&host, "bound"));
    let bundle = host.bundle(|config| {
        let script = "ls /sys/block | grep -c vd; find /dev -type b
            printf 'by a bind' | dd of=/mnt/bound conv=notrunc 2>/dev/null";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["devices"] = json!([node(&listed, "/dev/listed"), node(&bound, "/dev/bound")]);
        config["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/mnt/bound", "source": bound.node(), "options": ["bind"]}));
    });
    assert_eq!(host.run(&bundle).output().success(), "1\n");
    assert!(fs::read(bound.node()).unwrap().starts_with(b"by a bind"));
}

#[test]
fn devices_that_are_not_there() {
    let host = Host::new();
    for (device, words) in [
        (
            json!({"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}),
            ["linux.devices[0]", "10:232", "/dev/kvm"],
        ),
        (
            json!({"path": "/dev/x", "type": "b", "major": 4095, "minor": 1}),
            ["linux.devices[0]", "no block device", "4095:1"],
        ),
    ] {
        let bundle = host.bundle(|config| config["linux"]["devices"] = json!([device]));
        let line = host.run(&bundle).output().refusal();
        for word in words {
            assert!(line.contains(word), "{word:?} is not in: {line}");
        }
    }
}
