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

/// Every field of config.json that is honoured in the guest. What the host's side honours or refuses is its own: the
/// version, hooks, annotations, the `vm` section, the terminal, linux.cgroupsPath.
const HONOURED: &str = "
    root.path root.readonly hostname domainname
    mounts.*.destination mounts.*.type mounts.*.source mounts.*.options
    process.user.uid process.user.gid process.user.umask process.user.additionalGids
    process.args process.env process.cwd process.noNewPrivileges process.apparmorProfile process.oomScoreAdj
    process.capabilities.bounding process.capabilities.effective process.capabilities.inheritable
    process.capabilities.permitted process.capabilities.ambient
    process.rlimits.*.type process.rlimits.*.soft process.rlimits.*.hard
    process.scheduler.policy process.scheduler.nice process.scheduler.priority process.scheduler.flags
    process.scheduler.runtime process.scheduler.deadline process.scheduler.period
    process.ioPriority.class process.ioPriority.priority
    process.execCPUAffinity.initial process.execCPUAffinity.final
    linux.namespaces.*.type linux.namespaces.*.path
    linux.uidMappings.*.containerID linux.uidMappings.*.hostID linux.uidMappings.*.size linux.gidMappings
    linux.timeOffsets linux.sysctl linux.rootfsPropagation linux.maskedPaths linux.readonlyPaths
    linux.personality.domain linux.personality.flags
    linux.devices.*.path linux.devices.*.type linux.devices.*.major linux.devices.*.minor linux.devices.*.fileMode
    linux.devices.*.uid linux.devices.*.gid
    linux.resources.devices.*.allow linux.resources.devices.*.type linux.resources.devices.*.major
    linux.resources.devices.*.minor linux.resources.devices.*.access
    linux.resources.memory.limit linux.resources.memory.reservation linux.resources.memory.swap
    linux.resources.memory.useHierarchy linux.resources.memory.checkBeforeUpdate
    linux.resources.cpu.shares linux.resources.cpu.quota linux.resources.cpu.period linux.resources.cpu.burst
    linux.resources.cpu.cpus linux.resources.cpu.mems linux.resources.cpu.idle
    linux.resources.pids.limit linux.resources.unified
    linux.resources.hugepageLimits.*.pageSize linux.resources.hugepageLimits.*.limit
    linux.resources.blockIO.weight linux.resources.blockIO.weightDevice.*.weight
    linux.resources.blockIO.throttleReadBpsDevice linux.resources.blockIO.throttleWriteBpsDevice
    linux.resources.blockIO.throttleReadIOPSDevice linux.resources.blockIO.throttleWriteIOPSDevice
    linux.seccomp.defaultAction linux.seccomp.defaultErrnoRet linux.seccomp.architectures linux.seccomp.flags
    linux.seccomp.syscalls.*.names linux.seccomp.syscalls.*.action linux.seccomp.syscalls.*.errnoRet
    linux.seccomp.syscalls.*.args
";

/// A document in which every list that [`HONOURED`] looks into has an item, and every section what it needs.
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
    for path in HONOURED.split_whitespace() {
        let mut document = with_every_section();
        put(&mut document, path, json!([{}, 7]));
        let dropped = parse(&document).is_ok();
        assert!(!dropped, "{path} is dropped");
    }
}
