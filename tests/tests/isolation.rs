//! A container has what config.json gives it, and sees nothing else.

use std::fs;

use bulkhead_tests::harness::Host;
use serde_json::json;

/// The value of a field of /proc/self/status.
fn field(status: &str, name: &str) -> String {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[track_caller]
fn assert_fields(status: &str, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        assert_eq!(field(status, name), *value, "{name} in {status}");
    }
}

#[test]
fn a_user_has_the_ids_and_capabilities_asked_for() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["cat", "/proc/self/status"]);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 10]});
        config["process"]["noNewPrivileges"] = json!(true);
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL"],
            "permitted": ["CAP_KILL"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        });
    });
    let status = host.run(&bundle).output().success();
    assert_fields(
        &status,
        &[
            ("Pid", "1"),
            ("Uid", "1000 1000 1000 1000"),
            ("Gid", "1001 1001 1001 1001"),
            ("Groups", "5 10"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "0"),
            ("CapBnd", "0000000000000021"),
            ("CapPrm", "0000000000000020"),
            ("CapEff", "0000000000000020"),
            ("CapInh", "0000000000000020"),
            ("CapAmb", "0000000000000020"),
        ],
    );
}

#[test]
fn root_has_no_capability_but_those_asked_for() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["cat", "/proc/self/status"]);
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_NET_BIND_SERVICE"],
            "permitted": ["CAP_NET_BIND_SERVICE"],
            "effective": ["CAP_NET_BIND_SERVICE"],
        });
    });
    let status = host.run(&bundle).output().success();
    assert_fields(
        &status,
        &[
            ("Uid", "0 0 0 0"),
            ("Groups", ""),
            ("NoNewPrivs", "0"),
            ("CapBnd", "0000000000000400"),
            ("CapPrm", "0000000000000400"),
            ("CapEff", "0000000000000400"),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
        ],
    );
}

#[test]
fn a_seccomp_rule_returns_its_errno_or_kills() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let script = "mkdir /tmp/refused; sync; echo \"sync: $?\"; touch /tmp/allowed && echo allowed";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV},
                {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"},
            ],
        });
    });
    let output = host.run(&bundle).output().with_code(0);
    assert_eq!(output.stdout(), "sync: 159\nallowed\n");
    let stderr = output.stderr();
    assert!(
        stderr.contains("mkdir: can't create directory '/tmp/refused': Invalid cross-device link"),
        "{output:?}"
    );
    assert!(!host.folder().join("rootfs/tmp/refused").exists());
}

#[test]
fn masked_and_read_only_paths_are_that() {
    let host = Host::new();
    let script = "wc -c < /etc/secret; ls /secrets | wc -l; wc -c < /proc/meminfo
        echo x > /proc/sys/kernel/shm_rmid_forced; echo x > /fixed/file; cat /fixed/file; touch /secrets/x";
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["maskedPaths"] = json!(["/etc/secret", "/secrets", "/proc/meminfo", "/no/such/path"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/fixed", "/no/such/path"]);
    });
    let rootfs = bundle.rootfs();
    fs::write(rootfs.join("etc/secret"), "hidden").unwrap();
    for folder in ["secrets", "fixed"] {
        fs::create_dir(rootfs.join(folder)).unwrap();
        fs::write(rootfs.join(folder).join("file"), "contents\n").unwrap();
    }
    let output = host.run(&bundle).output();
    assert_eq!(output.stdout(), "0\n0\n0\ncontents\n", "{output:?}");
    let stderr = output.stderr();
    assert_eq!(
        stderr.matches("Read-only file system").count(),
        3,
        "sysctl, /fixed and the mask over /secrets: {stderr}"
    );
    assert_eq!(
        fs::read_to_string(rootfs.join("fixed/file")).unwrap(),
        "contents\n"
    );
}

#[test]
fn the_default_devices_are_there_and_those_asked_for() {
    let host = Host::new();
    let script = "cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty mine
        for link in fd stdin stdout stderr ptmx; do readlink $link; done
        head -c 4 /dev/zero | wc -c; echo gone > /dev/null; head -c 16 /dev/urandom | wc -c; echo x > /dev/full";
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["devices"] = json!([
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 0, "gid": 0},
        ]);
    });
    let output = host.run(&bundle).output();
    assert_eq!(
        output.stdout(),
        "null character special file 1:3 666\n\
         zero character special file 1:5 666\n\
         full character special file 1:7 666\n\
         random character special file 1:8 666\n\
         urandom character special file 1:9 666\n\
         tty character special file 5:0 666\n\
         mine character special file 1:3 640\n\
         /proc/self/fd\n\
         /proc/self/fd/0\n\
         /proc/self/fd/1\n\
         /proc/self/fd/2\n\
         pts/ptmx\n\
         4\n\
         16\n",
        "{output:?}"
    );
    assert!(output.stderr().contains("No space left on device"), "{output:?}");
}

#[test]
fn two_containers_at_once_do_not_see_each_other() {
    let host = Host::new();
    let start = |name: &str| {
        let bundle = host.bundle(|config| {
            config["hostname"] = json!(name);
            let script =
                "hostname > /tmp/mine; hostname; ls /tmp; ps -o args; ip -o link | wc -l; echo ready; read x";
            config["process"]["args"] = json!(["sh", "-c", script]);
        });
        host.run(&bundle).spawn()
    };
    let first = start("first");
    first.wait_for("ready");
    let second = start("second");
    second.wait_for("ready");
    assert_ne!(first.vmm(), second.vmm(), "a VM each");
    for (running, name) in [(first, "first"), (second, "second")] {
        let output = running.wait_for("ready");
        let mut lines = output.lines();
        assert_eq!(lines.next(), Some(name));
        assert_eq!(lines.next(), Some("mine"));
        let processes: Vec<_> = lines
            .clone()
            .skip(1)
            .take_while(|line| line.parse::<u32>().is_err())
            .collect();
        assert_eq!(processes.len(), 2, "the shell and ps: {output}");
        assert!(output.contains("\n1\nready"), "loopback only: {output}");
        let mut running = running;
        running.send("\n");
        running.wait().success();
    }
}

/// A user namespace cannot have a sysfs of its own here, and gets the guest's, with the cgroups of every container.
#[test]
fn root_of_a_user_namespace_only_looks_at_the_guests_sysfs() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["process"]["args"] = json!(["sh", "-c", "ls /sys/kernel; : > /sys/fs/cgroup/cgroup.procs"]);
        config["mounts"] = json!([{"destination": "/sys", "type": "sysfs", "source": "sysfs"}]);
        config["linux"] = json!({
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "user"}],
            "uidMappings": ids,
            "gidMappings": ids,
        });
    });
    let output = host.run(&bundle).output();
    assert!(output.stdout().contains("mm\n"), "{output:?}");
    assert!(output.stderr().contains("Read-only file system"), "{output:?}");
}
