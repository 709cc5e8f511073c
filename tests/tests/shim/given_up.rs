//! Creations for which containerd does not wait to their end: its caller's time was up, or it was killed.

use std::{fs, time::Duration};

use bulkhead_tests::harness::{Bundle, LIMIT, processes};
use nix::unistd::Pid;
use serde_json::{Value, json};
use ttrpc::context::with_duration;

use super::{
    SIGKILL,
    containerd::{Containerd, Shim, refusal},
};

/// Enough to be heard, and less than a creation takes here.
const MOMENT: Duration = Duration::from_secs(1);

/// Has creations take a while.
fn slow(config: &mut Value) {
    slow_by(config, 3);
}

/// Has creations take so many seconds longer.
fn slow_by(config: &mut Value, seconds: u32) {
    let seconds = seconds.to_string();
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", seconds]}]});
}

/// Has it create a container, and does not wait for that.
async fn give_up_creating(shim: &Shim, containerd: &Containerd, bundle: &Bundle, id: &str) {
    let creation = containerd.creation(bundle, id);
    let late = shim.tasks.create(with_duration(MOMENT), &creation).await;
    assert!(late.is_err(), "it takes longer");
}

async fn assert_gone(process: Pid) {
    let gone = tokio::task::spawn_blocking(move || processes::wait_until_gone(process, LIMIT)).await;
    assert!(gone.expect("no panic"), "the shim stays");
}

#[tokio::test(flavor = "current_thread")]
async fn a_container_is_deleted_while_it_is_made() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd.host.bundle(slow);
    let shim = containerd.start(&bundle, id).await;
    let process = shim.pid();
    give_up_creating(&shim, &containerd, &bundle, id).await;
    // As containerd does then. It may say that it needs the shim no more before the container is gone.
    let (deleted, ()) = tokio::join!(shim.delete(id, ""), shim.leave());
    assert_eq!(deleted.expect("deleted"), 128 + SIGKILL);
    assert_eq!(
        containerd.events_until("delete").await,
        ["create", "exit", "delete"]
    );
    assert_gone(process).await;
    assert!(!shim.socket.exists(), "the socket stays");
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_creation_that_fails_leaves_is_no_reason_to_stay() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd.host.bundle(|config| {
        slow(config);
        config["process"]["args"] = json!(["/no/such/program"]);
    });
    let shim = containerd.start(&bundle, id).await;
    let process = shim.pid();
    give_up_creating(&shim, &containerd, &bundle, id).await;
    let (deleted, ()) = tokio::join!(shim.delete(id, ""), shim.leave());
    let refused = refusal(deleted);
    assert!(refused.contains("not found"), "{refused}");
    assert_gone(process).await;
}

/// A containerd that has lost the connection has all removed, of a container whose creation takes so many seconds longer.
async fn assert_removed_from_outside(seconds: u32) {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd.host.bundle(|config| slow_by(config, seconds));
    let shim = containerd.start(&bundle, id).await;
    let process = shim.pid();
    give_up_creating(&shim, &containerd, &bundle, id).await;
    drop(shim);
    let output = containerd.execute(&bundle, id, "delete");
    assert!(output.status.success(), "{output:?}");
    assert_gone(process).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_containerd_that_has_lost_the_connection_has_all_removed() {
    assert_removed_from_outside(3).await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_was_removed_meanwhile_is_no_reason_to_stay() {
    // Longer than the removal from outside waits for the shim.
    assert_removed_from_outside(8).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_pod_goes_on_when_a_container_is_given_up() {
    let containerd = Containerd::new().await;
    let pod = &containerd.host.new_id();
    let bundle = super::many::pod(&containerd, pod, None);
    let shim = containerd.start(&bundle, pod).await;
    shim.run(&containerd.creation(&bundle, pod)).await;
    let id = &containerd.host.new_id();
    let second = super::member(&containerd, pod, "sleep 1000");
    let mut config: Value =
        serde_json::from_slice(&fs::read(second.config()).expect("readable")).expect("JSON");
    slow(&mut config);
    second.write_config(config.to_string().as_bytes());
    containerd.execute(&second, id, "start");
    give_up_creating(&shim, &containerd, &second, id).await;
    let output = containerd.execute(&second, id, "delete");
    assert!(output.status.success(), "{output:?}");
    let third = &containerd.host.new_id();
    let again = super::member(&containerd, pod, "exit 4");
    shim.run(&containerd.creation(&again, third)).await;
    assert_eq!(shim.wait(third, "").await, 4);
    shim.delete(third, "").await.expect("deleted");
    shim.kill(pod, "", SIGKILL).await.expect("sent");
    shim.wait(pod, "").await;
    shim.delete(pod, "").await.expect("deleted");
    shim.shut_down().await;
}
