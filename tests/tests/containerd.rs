//! A person runs containers with containerd's own client, with bulkhead as the runtime.

use std::fs;
use std::io::Write;
use std::path::Path;

use bulkhead_tests::harness::{CONTAINERD_RUNTIME, Containerd, Image, Invocation, program};
use bulkhead_tests::pattern;
use bulkhead_tests::testbed::channel::WindowSize;
use serde_json::Value;

const IMAGE: &str = "localhost/busybox:1";
const NAMESPACE: &str = "default";

/// What differs between kernels.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

fn containerd() -> Containerd {
    Containerd::new(NAMESPACE, &[Image::new(IMAGE, &["sh"])])
}

/// `ctr run OPTIONS IMAGE ID COMMAND`.
fn run(containerd: &Containerd, options: &[&str], id: &str, command: &[&str]) -> Invocation {
    containerd
        .ctr(["run", "--runtime", &CONTAINERD_RUNTIME])
        .args(options)
        .args([IMAGE, id])
        .args(command)
}

/// The topics of the task events of a container, in the order in which they were published.
fn topics(events: &str, id: &str) -> Vec<String> {
    events
        .lines()
        .filter_map(|line| {
            let (head, event) = line.split_once(" {")?;
            let event: Value = serde_json::from_str(&format!("{{{event}")).ok()?;
            let (_, topic) = head.rsplit_once(' ')?;
            (event["container_id"] == id)
                .then(|| topic.strip_prefix("/tasks/").map(str::to_owned))
                .flatten()
        })
        .collect()
}

#[test]
fn a_container_runs_with_its_streams_and_its_end_is_told() {
    let containerd = containerd();
    let events = containerd.ctr(["events"]).spawn();
    let script = format!("cat {BOOT}; echo oops >&2; exit 42");
    let output = run(&containerd, &["--rm"], "first", &["sh", "-c", &script])
        .output()
        .with_code(42);
    assert_eq!(output.stderr(), "oops\n");
    let host = fs::read_to_string(BOOT).unwrap();
    let guest = output.stdout();
    assert_eq!(guest.len(), host.len());

    let mut cat = run(&containerd, &["--rm"], "cat", &["cat"]).spawn();
    cat.send("through and back\n");
    cat.wait_for("through and back\n");
    cat.stdin.take();
    assert_eq!(cat.wait().success(), "through and back\n");

    let size = WindowSize {
        rows: 33,
        columns: 101,
    };
    let mut shell = run(&containerd, &["--rm", "--tty"], "shell", &["sh"]).spawn_on_terminal(size);
    shell.wait_for("# ");
    shell.send("until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; tty; exit 5\r");
    let session = shell.wait().with_code(5).stdout();
    assert!(session.contains("/dev/pts/"), "{session}");

    let missing = run(&containerd, &["--rm"], "broken", &["nonesuch"])
        .output()
        .with_code(1);
    assert!(missing.stderr().contains("nonesuch"), "{missing:?}");

    let told = events.wait_for("/tasks/delete {\"container_id\":\"shell\"");
    assert_eq!(topics(&told, "first"), ["create", "start", "exit", "delete"]);
    assert_ne!(guest, host, "it had a kernel of its own");
}

#[test]
fn much_output_loses_nothing() {
    const LARGE: usize = 64 << 20;
    let containerd = containerd();
    let source = program("workload");
    let mount = format!(
        "--mount=type=bind,src={},dst=/bin/workload,options=rbind:ro",
        source.display()
    );
    let command = ["workload", "burst", &LARGE.to_string()];
    let output = run(&containerd, &["--rm", &mount], "loud", &command)
        .output()
        .with_code(0);
    let mut checker = pattern::Checker::new();
    checker.write_all(&output.stdout).unwrap();
    assert_eq!(checker.finish(), Ok(LARGE));
}

#[test]
fn a_running_container_is_looked_into_paused_and_killed() {
    let containerd = containerd();
    let ctr = |args: &[&str]| containerd.ctr(args);
    let events = ctr(&["events"]).spawn();
    let log = containerd.host().folder().join("output");
    let log_uri = format!("--log-uri=file://{}", log.display());
    let service = "trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
    let options = ["--detach", &log_uri, "--memory-limit=209715200"];
    run(&containerd, &options, "web", &["sh", "-c", service])
        .output()
        .with_code(0);
    wait_until_contains(&log, "ready\n");

    let exec = |options: &[&str], command: &[&str]| {
        let exec = ctr(&["task", "exec"]).args(options).arg("web");
        exec.args(command)
    };
    let limit = exec(
        &["--exec-id=one", "--user=7:8", "--cwd=/bin"],
        &["sh", "-c", "id -u; id -g; pwd; exit 9"],
    );
    assert_eq!(limit.output().with_code(9).stdout(), "7\n8\n/bin\n");
    let mut cat = exec(&["--exec-id=two"], &["cat"]).spawn();
    cat.send("to a program\n");
    cat.stdin.take();
    assert_eq!(cat.wait().success(), "to a program\n");
    let size = WindowSize {
        rows: 33,
        columns: 101,
    };
    let mut shell = exec(&["--exec-id=three", "--tty"], &["sh"]).spawn_on_terminal(size);
    shell.wait_for("# ");
    shell.send("until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; tty; exit 5\r");
    assert!(shell.wait().with_code(5).stdout().contains("/dev/pts/"));
    exec(&["--exec-id=four"], &["nonesuch"]).output().with_code(1);

    let processes = ctr(&["task", "ps", "web"]).output().success();
    assert!(processes.lines().count() >= 2, "{processes}");
    let metrics = ctr(&["task", "metrics", "--format=json", "web"])
        .output()
        .success();
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!(metrics["memory"]["usage_limit"], 209_715_200, "{metrics}");
    assert!(metrics["memory"]["usage"].as_u64() > Some(0), "{metrics}");
    assert!(metrics["cpu"]["usage_usec"].as_u64() > Some(0), "{metrics}");
    assert!(metrics["pids"]["current"].as_u64() >= Some(2), "{metrics}");

    let status = || {
        let list = ctr(&["task", "list"]).output().success();
        let line = list
            .lines()
            .find(|line| line.starts_with("web "))
            .map(str::to_owned);
        line.and_then(|line| line.split_whitespace().last().map(str::to_owned))
    };
    assert_eq!(status().as_deref(), Some("RUNNING"));
    ctr(&["task", "pause", "web"]).output().with_code(0);
    assert_eq!(status().as_deref(), Some("PAUSED"));
    ctr(&["task", "resume", "web"]).output().with_code(0);
    assert_eq!(status().as_deref(), Some("RUNNING"));

    let attached = ctr(&["task", "kill", "--signal=SIGTERM", "web"]).output();
    attached.with_code(0);
    events.wait_for("/tasks/exit {\"container_id\":\"web\",\"id\":\"web\"");
    assert_eq!(fs::read_to_string(&log).unwrap(), "ready\nstopping\n");
    assert_eq!(status().as_deref(), Some("STOPPED"));
    let deleted = ctr(&["task", "delete", "web"]).output().with_code(0);
    assert!(deleted.stderr().contains("non-zero exit code 3"), "{deleted:?}");
    ctr(&["container", "delete", "web"]).output().with_code(0);
    let told = events.wait_for("/containers/delete {\"id\":\"web\"}");
    let topics = topics(&told, "web");
    let of_task = ["create", "start", "paused", "resumed", "exit", "delete"];
    let execs = topics.iter().filter(|topic| topic.starts_with("exec-")).count();
    assert_eq!(execs, 7, "three ran, and one was added only: {topics:?}");
    let others: Vec<_> = topics
        .iter()
        .filter(|topic| of_task.contains(&topic.as_str()))
        .collect();
    assert_eq!(others, [&of_task[..2], &["exit"; 3], &of_task[2..]].concat());
}

fn wait_until_contains(file: &Path, text: &str) {
    let deadline = std::time::Instant::now() + bulkhead_tests::harness::LIMIT;
    while !fs::read_to_string(file).is_ok_and(|contents| contents.contains(text)) {
        assert!(std::time::Instant::now() < deadline, "{text:?} has not come");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
