//! A container that is held still.

use std::time::Duration;

use bulkhead_tests::harness::{Host, LIMIT, processes};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::json;

/// How long a paused container is given to do something, which it must not.
const PATIENCE: Duration = Duration::from_millis(700);

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    let host = Host::new();
    let container = host.create(&host.script("while :; do echo tick; sleep 0.1; done"));
    let ask = |command: &str| container.command(command).output();

    // At its start gate it can be paused as well, and is what it was afterwards.
    ask("pause").success();
    assert_eq!(container.status(), "paused");
    ask("resume").success();
    assert_eq!(container.status(), "created");
    assert_eq!(ask("resume").refusal(), "bulkhead: container not paused");

    ask("start").success();
    ask("pause").success();
    assert_eq!(container.status(), "paused");
    assert_eq!(ask("pause").refusal(), "bulkhead: container not running");
    let listed = host.bulkhead().arg("list").output().success();
    assert!(listed.contains(" paused "), "{listed}");
    std::thread::sleep(PATIENCE);
    let before = container.stdout();
    std::thread::sleep(PATIENCE);
    assert_eq!(container.stdout(), before, "it runs");
    let exec = container.exec(&[], &["true"]).output().with_code(255);
    assert_eq!(
        exec.stderr(),
        "bulkhead: exec failed: cannot exec in a paused container (use --ignore-paused to override)\n"
    );
    assert!(container.command("ps").output().success().contains("while :"));
    let waiting = container.exec(&["--ignore-paused"], &["echo", "at last"]).spawn();
    ask("resume").success();
    assert_eq!(container.status(), "running");
    assert_eq!(waiting.wait().success(), "at last\n");
    let deadline = std::time::Instant::now() + LIMIT;
    while container.stdout().len() <= before.len() {
        assert!(std::time::Instant::now() < deadline, "it does not run");
        std::thread::sleep(Duration::from_millis(50));
    }

    // A kill does not wait for the resumption.
    ask("pause").success();
    container.kill("KILL");
    assert_eq!(
        container.wait(),
        WaitStatus::Signaled(container.pid, Signal::SIGKILL, false)
    );
    assert_eq!(container.status(), "stopped");
    assert_eq!(ask("pause").refusal(), "bulkhead: container not running");
    assert_eq!(ask("resume").refusal(), "bulkhead: container not paused");
    container.discard();
}

#[test]
fn a_paused_container_is_deleted_by_force() {
    let host = Host::new();
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["sleep", "100000"]));
    let container = host.started(&bundle);
    container.command("pause").output().success();
    container.command("delete").arg("--force").output().success();
    assert!(processes::wait_until_gone(container.pid, LIMIT));
    let gone = container.command("pause").output().refusal();
    assert!(gone.contains("container does not exist"), "{gone}");
}
