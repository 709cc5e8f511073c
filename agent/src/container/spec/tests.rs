use bulkhead_agent_protocol::spec::{FIELDS, Handling};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ContainerSpec, SpecError, parse_process};

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
        ("hostname", json!("a\u{0}"), "hostname: has a NUL byte in it"),
        (
            "domainname",
            json!("x".repeat(65)),
            "domainname: is longer than the 64 bytes that the kernel takes",
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [7], "action": "SCMP_ACT_LOG"}]}),
            "linux.seccomp.syscalls[0].names[0]: invalid type: integer `7`, expected a string",
        ),
        (
            "linux.namespaces",
            json!([{"type": "mount"}, {"path": "/a"}, {"type": "pid"}]),
            "linux.namespaces[1]: missing field `type`",
        ),
        (
            "linux.namespaces",
            json!([{}]),
            "linux.namespaces[0]: missing field `type`",
        ),
        (
            "process.args",
            json!({"0": "true"}),
            "process.args: invalid type: map, expected a sequence",
        ),
        (
            "linux.sysctl",
            json!({"a.b": "1", "c.d": [2]}),
            "linux.sysctl.c.d: invalid type: sequence, expected a string",
        ),
        (
            "mounts",
            json!(true),
            "mounts: invalid type: boolean `true`, expected a sequence",
        ),
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

/// A document in which every list that a path of [`FIELDS`] looks into has an item, and every section what it needs.
fn with_every_section() -> Value {
    let id = json!({"containerID": 0, "hostID": 0, "size": 1});
    let mut document = minimal();
    for (path, value) in [
        ("mounts", json!([{"destination": "/a", "type": "tmpfs"}])),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        ),
        ("process.scheduler", json!({"policy": "SCHED_OTHER"})),
        (
            "process.ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 4}),
        ),
        ("linux.uidMappings", json!([id])),
        ("linux.gidMappings", json!([id])),
        ("linux.personality", json!({"domain": "LINUX"})),
        (
            "linux.devices",
            json!([{"path": "/dev/a", "type": "c", "major": 1, "minor": 3}]),
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]}),
        ),
        ("linux.resources.devices", json!([{"allow": false}])),
        (
            "linux.resources.hugepageLimits",
            json!([{"pageSize": "2MB", "limit": 0}]),
        ),
        (
            "linux.resources.blockIO.weightDevice",
            json!([{"major": 8, "minor": 0}]),
        ),
    ] {
        put(&mut document, path, value);
    }
    document
}

/// A field that is read is noticed when it is of no type that any field has; one that is dropped is not.
#[test]
fn every_field_that_is_honoured_is_read() {
    let parse = |document: &Value| ContainerSpec::parse(&serde_json::to_vec(document).unwrap());
    parse(&with_every_section()).unwrap();
    let honoured = FIELDS
        .iter()
        .filter(|field| matches!(field.handling, Handling::Guest | Handling::HostAndGuest));
    for path in honoured.map(|field| field.path) {
        let mut document = with_every_section();
        put(&mut document, &path.replace("[]", ".*"), json!([{}, 7]));
        let dropped = parse(&document).is_ok();
        assert!(!dropped, "{path} is dropped");
    }
}
