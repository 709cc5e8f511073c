//! What is wrong in config.json is named, whoever finds it: the host's side or the guest.

use bulkhead_tests::harness::Host;
use serde_json::{Value, json};

/// Refuses a `config.json` that `edit` made wrong, in a line that begins with this.
#[track_caller]
fn assert_refused(host: &Host, edit: impl FnOnce(&mut Value), problem: &str) {
    let bundle = host.bundle(edit);
    let line = host.run(&bundle).output().refusal();
    assert!(
        line.contains(&format!(": {problem}")),
        "{problem:?} is not in: {line}"
    );
}

#[test]
fn fields_of_the_wrong_type_that_the_guest_reads() {
    let host = Host::new();
    assert_refused(
        &host,
        |config| config["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": 1}),
        "linux.sysctl.kernel.shm_rmid_forced: invalid type: integer `1`, expected a string",
    );
    assert_refused(
        &host,
        |config| config["linux"]["resources"] = json!({"pids": {"limit": "many"}}),
        "linux.resources.pids.limit: invalid type: string \"many\", expected i64",
    );
}

#[test]
fn texts_with_a_nul_byte() {
    let host = Host::new();
    assert_refused(
        &host,
        |config| config["hostname"] = json!("before\0after"),
        "hostname: has a NUL byte in it",
    );
    assert_refused(
        &host,
        |config| config["linux"]["cgroupsPath"] = json!("a\0b"),
        "linux.cgroupsPath: has a NUL byte in it",
    );
}

#[test]
fn values_that_no_kernel_takes() {
    let host = Host::new();
    assert_refused(
        &host,
        |config| config["hostname"] = json!("x".repeat(65)),
        "hostname: is longer than the 64 bytes that the kernel takes",
    );
    assert_refused(
        &host,
        |config| config["linux"]["resources"] = json!({"memory": {"limit": 1}}),
        "linux.resources.memory.limit: too little for the process to be set up",
    );
}
