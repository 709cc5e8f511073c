use proptest::prelude::*;
use serde_json::{Value, json};

use super::{CONTAINER_NOT_HONOURED, ContainerSpec, PROCESS_NOT_HONOURED, SpecError, parse_process};

fn minimal() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "/run/bulkhead/shared/root"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}]},
    })
}

/// Puts `value` where `path` says, making what is missing on the way.
fn put(document: &mut Value, path: &str, value: Value) {
    let mut place = document;
    for step in path.split('.') {
        if step == "*" {
            if place.is_null() {
                *place = json!([null]);
            }
            place = &mut place.as_array_mut().unwrap()[0];
        } else {
            if place.is_null() {
                *place = json!({});
            }
            place = place.as_object_mut().unwrap().entry(step).or_insert(Value::Null);
        }
    }
    *place = value;
}

fn error(document: &Value) -> String {
    ContainerSpec::parse(&serde_json::to_vec(document).unwrap())
        .unwrap_err()
        .to_string()
}

#[test]
fn a_minimal_spec_is_read() {
    let spec = ContainerSpec::parse(&serde_json::to_vec(&minimal()).unwrap()).unwrap();
    assert_eq!(spec.process.args.as_deref(), Some(&["true".to_owned()][..]));
}

#[test]
fn every_field_that_is_not_honoured_is_named() {
    let process = PROCESS_NOT_HONOURED
        .iter()
        .map(|(path, _)| format!("process.{path}"));
    for path in CONTAINER_NOT_HONOURED
        .iter()
        .map(|(path, _)| (*path).to_owned())
        .chain(process)
    {
        let mut document = minimal();
        put(&mut document, &path, json!(true));
        assert_eq!(error(&document), format!("{path} is not supported"));
    }
}

#[test]
fn fields_that_ask_for_nothing_are_no_reason_to_refuse() {
    for (path, value) in [
        ("linux.resources.memory.kernelTCP", json!(0)),
        ("linux.resources.memory.disableOOMKiller", json!(false)),
        ("linux.mountLabel", json!("")),
        ("linux.resources.rdma", json!({})),
        ("linux.resources.network.priorities", json!([])),
        ("linux.resources.network.classID", Value::Null),
    ] {
        let mut document = minimal();
        put(&mut document, path, value);
        ContainerSpec::parse(&serde_json::to_vec(&document).unwrap()).unwrap();
    }
}

#[test]
fn unknown_capabilities_are_left_out_and_others_kept() {
    let mut document = minimal();
    put(
        &mut document,
        "process.capabilities.bounding",
        json!(["CAP_FUTURE", "CAP_KILL"]),
    );
    let spec = ContainerSpec::parse(&serde_json::to_vec(&document).unwrap()).unwrap();
    let sets = spec.process.capabilities.clone().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
}

#[test]
fn no_pids_limit_is_no_limit() {
    let mut document = minimal();
    put(&mut document, "linux.resources.pids", json!({}));
    let spec = ContainerSpec::parse(&serde_json::to_vec(&document).unwrap()).unwrap();
    assert!(spec.linux.resources().as_ref().unwrap().pids().is_none());
}

#[test]
fn what_is_wrong_is_said() {
    for (path, value, text) in [
        ("process.args", json!([]), "process.args: is empty"),
        (
            "process.cwd",
            json!("home"),
            "process.cwd: \"home\" is not absolute",
        ),
        (
            "process.env",
            json!(["A=\u{0}"]),
            "process.env: has a NUL byte in it",
        ),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
            "process.rlimits: RLIMIT_CORE is given twice",
        ),
        (
            "process.user",
            json!({"gid": u32::MAX}),
            "process.user.gid: 4294967295 is no id",
        ),
        (
            "process.user",
            json!({"additionalGids": [u32::MAX]}),
            "process.user.additionalGids: 4294967295 is no id",
        ),
        ("root.path", json!("rootfs"), "root.path: is not absolute"),
        ("linux", Value::Null, "linux: is missing"),
    ] {
        let mut document = minimal();
        put(&mut document, path, value);
        assert_eq!(error(&document), text);
    }
}

#[test]
fn an_unknown_resource_limit_is_an_error() {
    let mut document = minimal();
    put(
        &mut document,
        "process.rlimits",
        json!([{"type": "RLIMIT_FUTURE", "soft": 0, "hard": 0}]),
    );
    assert!(error(&document).contains("RLIMIT_FUTURE"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ContainerSpec::parse(&bytes);
        let _ = parse_process(&bytes);
    }
}

#[test]
fn malformed_json_is_told_apart() {
    assert!(matches!(ContainerSpec::parse(b"{"), Err(SpecError::Malformed(_))));
}
