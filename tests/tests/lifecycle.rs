//! However it ends, nothing is left. That is what dropping the `Host` checks.

use bulkhead_tests::harness::{Host, LIMIT, Running, processes};
use nix::sys::signal::{Signal, kill};

fn start(host: &Host) -> Running {
    let running = host.run(&host.script("echo ready; exec sleep 100000")).spawn();
    running.wait_for("ready");
    running
}

#[test]
fn a_container_ends_with_its_first_process_whatever_it_left_running() {
    let host = Host::new();
    let script = "sleep 100000 & setsid sleep 100000 & (setsid sleep 100000 &); echo started; exit 5";
    let output = host.run(&host.script(script)).output().with_code(5);
    assert_eq!(output.stdout(), "started\n");
}

#[test]
fn a_killed_bulkhead_leaves_nothing() {
    let host = Host::new();
    let running = start(&host);
    let vmm = running.vmm();
    running.signal(Signal::SIGKILL);
    assert!(processes::wait_for_end(vmm, LIMIT));
    let output = running.wait();
    assert_eq!(output.status.code(), None);
}

#[test]
fn a_killed_vmm_ends_the_run_and_leaves_nothing() {
    let host = Host::new();
    let running = start(&host);
    kill(running.vmm(), Signal::SIGKILL).unwrap();
    let output = running.wait().with_code(1);
    assert!(output.stderr().contains("VMM"), "{output:?}");
}

/// Each process of a run but the VMM is killed in turn.
#[test]
fn a_killed_monitor_leaves_nothing() {
    let host = Host::new();
    let running = start(&host);
    let vmm = running.vmm();
    let monitors: Vec<_> = processes::descendants(running.pid())
        .into_iter()
        .filter(|pid| *pid != vmm)
        .collect();
    for pid in &monitors {
        kill(*pid, Signal::SIGKILL).unwrap();
    }
    assert!(!monitors.is_empty());
    assert!(processes::wait_for_end(vmm, LIMIT));
    running.wait().with_code(1);
}

#[test]
fn an_identifier_can_be_used_again() {
    let host = Host::new();
    let bundle = host.script("echo again");
    for _ in 0..2 {
        assert_eq!(host.run_as(&bundle, "the-same").output().success(), "again\n");
    }
}
