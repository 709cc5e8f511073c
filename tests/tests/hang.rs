//! A microVM that hangs: its containers end, with a reason, when its time is up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bulkhead_tests::harness::{Host, processes};
use bulkhead_vmm::control::{Request, Response};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

const REASON: &str = "the guest's agent has not answered for 4 s (agent_timeout_seconds)";

fn host() -> Host {
    let mut host = Host::new();
    host.settings.insert("agent_timeout_seconds".into(), 4.into());
    host
}

/// Has the virtual processors stand still. The VMM answers, and nothing in the guest does.
fn stop_processors(state: &Path) {
    let mut control = UnixStream::connect(state.join("control.sock")).unwrap();
    let request = serde_json::to_string(&Request::Pause {}).unwrap();
    writeln!(control, "{request}").unwrap();
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer).unwrap();
    assert_eq!(serde_json::from_str::<Response>(&answer).unwrap(), Response::Done);
}

#[test]
fn a_guest_that_hangs_ends_its_container_and_says_why() {
    let host = host();
    let id = host.new_id();
    let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let running = host.run_as(&host.script(script), &id).spawn();
    running.wait_for("ready");
    stop_processors(&host.state().join(&id));
    // What is to be passed on meanwhile is in nobody's way.
    running.signal(Signal::SIGTERM);
    let stderr = running.wait().with_code(1).stderr();
    assert!(stderr.contains(REASON), "{stderr}");
}

#[test]
fn a_vmm_that_hangs_ends_the_containers_of_its_pod() {
    let host = host();
    let owner = host.started(&host.script("exec sleep 100000"));
    let joins = host.bundle(|config| {
        config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": owner.id,
        });
        config["process"]["args"] = json!(["sleep", "100000"]);
    });
    let member = host.started(&joins);
    let vmm = processes::all()
        .into_iter()
        .find(|pid| processes::name(*pid).as_deref() == Some("bulkhead-vmm"));
    kill(vmm.unwrap(), Signal::SIGSTOP).unwrap();
    for container in [member, owner] {
        let _ = container.wait();
        container.delete();
    }
}

#[test]
fn a_guest_that_is_paused_does_not_hang() {
    let host = host();
    let container = host.started(&host.script("exec sleep 100000"));
    host.bulkhead().args(["pause", &container.id]).output().success();
    // Twice as long as it may be silent.
    thread::sleep(Duration::from_secs(8));
    host.bulkhead().args(["resume", &container.id]).output().success();
    container.kill("KILL");
    let _ = container.wait();
    container.delete();
}
