//! Callers send signals to a container, and to nobody else.

use std::fs;
use std::process::Command;

use bulkhead_tests::harness::Host;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use serde_json::{Value, json};

#[test]
fn a_signal_reaches_the_first_process_or_all() {
    let host = Host::new();
    let script = "trap 'echo first caught USR1' USR1; trap 'exit 4' TERM
        (trap 'echo other caught USR1' USR1; echo other is ready; while :; do sleep 0.1; done) &
        echo first is ready; while :; do sleep 0.1; done";
    let container = host.started(&host.script(script));
    container.wait_for("other is ready\n");
    container.wait_for("first is ready\n");
    container.kill("USR1");
    container.wait_for("first caught USR1\n");
    let all = container.command("kill").args(["--all", "SIGUSR1"]).output();
    assert_eq!(all.success(), "");
    container.wait_for("other caught USR1\n");
    let unknown = container.command("kill").arg("SIGNAL").output().refusal();
    assert_eq!(unknown, "bulkhead: unknown signal \"SIGNAL\"");
    // 0 is no signal, and tells whether there is somebody.
    assert_eq!(container.command("kill").arg("0").output().success(), "");
    // SIGTERM is what is sent where nothing is said.
    assert_eq!(container.command("kill").output().success(), "");
    assert_eq!(container.wait(), WaitStatus::Exited(container.pid, 4));
    let nobody = container.command("kill").arg("0").output().refusal();
    assert_eq!(nobody, "bulkhead: container not running");
    let said = container.stdout();
    assert_eq!(
        (
            said.matches("first caught").count(),
            said.matches("other caught").count()
        ),
        (2, 1),
        "{said}"
    );
    container.delete();
}

/// The record has the stand-in's start time beside its pid: the kernel gives numbers away again.
#[test]
fn a_process_that_has_got_the_pid_of_a_stand_in_is_left_alone() {
    let host = Host::new();
    let container = host.started(&host.script("exec sleep 100000"));
    kill(container.pid, Signal::SIGKILL).unwrap();
    let _ = container.wait();
    let mut stranger = Command::new("sleep").arg("100000").spawn().expect("sleep");
    let record = host.state().join(&container.id).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    assert_eq!(state["monitor"]["pid"], container.pid.as_raw());
    state["monitor"]["pid"] = json!(stranger.id());
    fs::write(&record, state.to_string()).unwrap();

    assert_eq!(container.state()["pid"], 0);
    assert_eq!(container.status(), "stopped");
    let refused = container.command("kill").arg("KILL").output().refusal();
    assert!(refused.contains("container not running"), "{refused}");
    assert_eq!(container.command("delete").arg("--force").output().success(), "");
    assert_eq!(stranger.try_wait().expect("a child"), None, "it runs");
    stranger.kill().expect("it runs");
    stranger.wait().expect("a child");
}
