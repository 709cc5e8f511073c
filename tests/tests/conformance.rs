//! What the specification asks of the operations, point by point: what they need, what they refuse, and what they leave
//! alone.

use std::fs;
use std::path::Path;

use bulkhead_tests::harness::Host;
use nix::sys::wait::WaitStatus;
use serde_json::json;

#[test]
fn an_operation_needs_the_id_of_a_container() {
    let host = Host::new();
    let bundle = host.script("echo never");
    for operation in ["create", "state", "start", "kill", "delete"] {
        let mut command = host.bulkhead().arg(operation);
        command.command().current_dir(bundle.folder());
        let line = command.output().refusal();
        assert!(line.contains("<ID>"), "{operation}: {line}");
    }
    for operation in ["state", "start", "kill", "delete"] {
        let line = host.bulkhead().args([operation, "nobody"]).output().refusal();
        assert!(
            line.ends_with("container does not exist: nobody"),
            "{operation}: {line}"
        );
    }
}

#[test]
fn a_bundle_counts_as_it_was_when_the_container_was_created() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo \"$A\"; hostname"]);
        config["process"]["env"] = json!(["PATH=/bin", "A=as created"]);
        config["hostname"] = json!("created");
        config["annotations"] = json!({"key": "created"});
    });
    let container = host.create(&bundle);
    let created = container.state();
    let config = bundle.folder().join("config.json");
    fs::write(&config, r#"{"ociVersion": "1.0.0"}"#).unwrap();
    assert_eq!(container.state(), created);
    fs::remove_file(&config).unwrap();
    container.start();
    assert_eq!(container.wait(), WaitStatus::Exited(container.pid, 0));
    assert_eq!(container.stdout(), "as created\ncreated\n");
    assert_eq!(container.state()["annotations"], json!({"key": "created"}));
    container.delete();
    assert!(bundle.rootfs().is_dir(), "the bundle is the caller's");
}

#[test]
fn an_operation_out_of_turn_changes_nothing_and_signals_arrive_by_any_name() {
    let host = Host::new();
    let script = "for s in TERM USR1; do trap \"echo caught $s\" $s; done; trap 'exit 5' USR2; echo ready
        while :; do sleep 1000 & wait $!; done";
    let bundle = host.script(script);
    let container = host.create(&bundle);
    assert_eq!(container.stdout(), "", "the program waits for its start");
    container.start();
    container.wait_for("ready\n");
    let running = container.state();
    for operation in ["start", "delete"] {
        let _ = container.command(operation).output().refusal();
        assert_eq!(container.state(), running, "{operation}");
    }
    for (signal, caught) in [("TERM", "TERM"), ("SIGUSR1", "USR1")] {
        container.kill(signal);
        container.wait_for(&format!("caught {caught}\n"));
    }
    container.kill("12");
    assert_eq!(container.wait(), WaitStatus::Exited(container.pid, 5));

    let stopped = container.state();
    assert_eq!(stopped["status"], "stopped");
    for operation in ["start", "kill"] {
        let _ = container.command(operation).output().refusal();
        assert_eq!(container.state(), stopped, "{operation}");
    }
    container.delete();
}

#[test]
fn what_the_container_has_not_made_is_not_deleted_with_it() {
    let host = Host::new();
    let cgroup = Path::new("/sys/fs/cgroup/bulkhead-test-callers");
    fs::create_dir(cgroup).unwrap();
    let source = host.directory("source");
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["touch", "/bound/made"]);
        config["linux"]["cgroupsPath"] = json!("/bulkhead-test-own");
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/bound", "source": source, "options": ["bind"]}));
    });
    let container = host.create(&bundle);
    fs::write(cgroup.join("cgroup.procs"), container.pid.to_string()).unwrap();
    container.start();
    assert_eq!(container.wait(), WaitStatus::Exited(container.pid, 0));
    container.delete();
    assert!(!Path::new("/sys/fs/cgroup/bulkhead-test-own").exists());
    assert!(source.join("made").exists());
    fs::remove_dir(cgroup).expect("it is there, and empty");
}

#[test]
fn what_is_mounted_later_spreads_as_the_propagation_of_the_root_says() {
    let host = Host::new();
    let script = "mkdir /copy /place; mount -o rbind / /copy 2> /dev/null || { echo refused; exit; }
        mount -t tmpfs x /place; touch /place/file; test -e /copy/place/file && echo seen || echo hidden";
    for (propagation, expected) in [
        ("shared", "seen\n"),
        ("slave", "hidden\n"),
        ("private", "hidden\n"),
        ("unbindable", "refused\n"),
    ] {
        let bundle = host.bundle(|config| {
            let capabilities = json!(["CAP_SYS_ADMIN"]);
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["process"]["capabilities"] =
                json!({"bounding": capabilities, "permitted": capabilities, "effective": capabilities});
            config["linux"]["rootfsPropagation"] = json!(propagation);
        });
        assert_eq!(host.run(&bundle).output().success(), expected, "{propagation}");
    }
}
