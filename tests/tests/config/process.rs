//! process, hostname, domainname, ociVersion, annotations.

use std::fs;

use bulkhead_tests::harness::Host;
use serde_json::json;

use super::checks::{check, refused};

#[test]
fn a_process_is_as_it_is_described() {
    check(
        |config| {
            config["ociVersion"] = json!("1.0.2-dev");
            config["unknown"] = json!({"of": "a later version"});
            config["annotations"] = json!({"org.example.key": "value"});
            config["hostname"] = json!("machine");
            config["domainname"] = json!("example.org");
            config["process"]["unknown"] = json!(true);
            config["process"]["cwd"] = json!("/made/for/it");
            config["process"]["env"] = json!(["PATH=/bin", "A=b c=d", "HOME=/nowhere"]);
            config["process"]["user"] = json!({"uid": 7, "gid": 8, "umask": 0o27, "additionalGids": [9, 10]});
            config["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX},
            ]);
            config["process"]["oomScoreAdj"] = json!(123);
            config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
            config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
        },
        &[
            ("hostname", "hostname", "machine"),
            ("domainname", "cat /proc/sys/kernel/domainname", "example.org"),
            ("process.cwd", "pwd", "/made/for/it"),
            (
                "process.env",
                "echo \"$A|$HOME|$PATH\"; env | wc -l",
                "b c=d|/nowhere|/bin\n5",
            ),
            ("process.args", "echo \"$0|$1|$#\"", "zero|one two|1"),
            ("process.user", "id -u; id -g; id -G", "7\n8\n8 9 10"),
            ("process.user.umask", "umask", "0027"),
            (
                "process.rlimits",
                "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc",
                "100\n200\n0\nunlimited",
            ),
            ("process.oomScoreAdj", "cat /proc/1/oom_score_adj", "123"),
            ("process.scheduler", "awk '{print $19, $41}' /proc/1/stat", "5 3"),
            ("process.ioPriority", "busybox ionice -p 1", "best-effort: prio 3"),
            ("fds", "ls /proc/1/fd | tr '\\n' ' '", "0 1 2"),
        ],
    );
}

#[test]
fn what_is_not_said_is_left_alone() {
    check(
        |config| {
            config["ociVersion"] = json!("1.99.0");
            let process = config["process"].as_object_mut().expect("an object");
            process.remove("user");
            process.remove("rlimits");
            process.insert(
                "scheduler".into(),
                json!({"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
            );
            process.insert(
                "ioPriority".into(),
                json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
            );
        },
        &[
            ("process.user", "id -u; id -g; id -G", "0\n0\n0"),
            ("process.user.umask", "umask", "0022"),
            ("process.rlimits", "ulimit -Sn", "1024"),
            ("process.oomScoreAdj", "cat /proc/1/oom_score_adj", "0"),
            (
                "process.scheduler",
                "awk '{print $40, $41}' /proc/1/stat; awk '{print $40, $41}' /proc/self/stat",
                "10 1\n0 0",
            ),
            ("process.ioPriority", "busybox ionice -p 1", "idle"),
            ("process.env", "echo $HOME", "/"),
        ],
    );
}

#[test]
fn what_a_process_cannot_be_is_refused() {
    refused(
        |config| config["process"]["rlimits"] = json!([{"type": "RLIMIT_FUTURE", "soft": 1, "hard": 1}]),
        &["config.json: process.rlimits[0].type", "RLIMIT_FUTURE"],
    );
    refused(
        |config| {
            let limit = json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1});
            config["process"]["rlimits"] = json!([limit, limit]);
        },
        &["config.json: process.rlimits[1].type", "RLIMIT_CORE", "twice"],
    );
    refused(
        |config| config["process"]["scheduler"] = json!({"policy": "SCHED_FUTURE"}),
        &["SCHED_FUTURE"],
    );
    refused(
        |config| config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_RT", "priority": 8}),
        &["process.ioPriority", "8"],
    );
}

#[test]
fn an_unknown_capability_is_left_out_with_a_warning() {
    let host = Host::new();
    let log = host.folder().join("log");
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["grep", "CapBnd", "/proc/self/status"]);
        config["process"]["capabilities"] = json!({"bounding": ["CAP_FUTURE", "CAP_CHOWN"]});
    });
    let output = host
        .bulkhead()
        .arg("--log")
        .arg(&log)
        .args(["run", "--bundle"])
        .arg(bundle.folder())
        .arg(host.new_id())
        .output();
    assert_eq!(output.success(), "CapBnd:\t0000000000000001\n");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("WARN") && log.contains("CAP_FUTURE"), "{log}");
}

#[test]
fn a_terminal_has_the_size_asked_for() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        let script = "stty size; stat -c %t:%T /dev/console; test -t 0 && tty";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let size = bulkhead_tests::testbed::channel::WindowSize {
        rows: 10,
        columns: 20,
    };
    let output = host.run(&bundle).spawn_on_terminal(size).wait().with_code(0);
    assert_eq!(output.stdout(), "33 77\r\n88:0\r\n/dev/pts/0\r\n", "{output:?}");
}

#[test]
fn a_further_process_uses_the_processors_asked_for() {
    let mut host = Host::new();
    host.settings.insert("vcpus".into(), 2.into());
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "grep Cpus_allowed_list /proc/self/status; read x"]);
        config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    });
    let id = host.new_id();
    let mut running = host.run_as(&bundle, &id).spawn();
    running.wait_for("Cpus_allowed_list:\t0-1\n");
    let exec = host
        .bulkhead()
        .args(["exec", &id, "grep", "Cpus_allowed_list", "/proc/self/status"]);
    assert_eq!(exec.output().success(), "Cpus_allowed_list:\t1\n");
    running.send("\n");
    running.wait().success();
}
