use serde_json::{Value, json};

use super::*;

fn parse(namespaces: &Value, more: &[(&str, Value)]) -> Result<Namespaces, String> {
    parse_with_shares(namespaces, more).map(|(namespaces, _)| namespaces)
}

fn parse_with_shares(namespaces: &Value, more: &[(&str, Value)]) -> Result<(Namespaces, Vec<Share>), String> {
    let mut document = json!({
        "root": {"path": "/r"},
        "process": {"user": {}, "args": ["x"], "cwd": "/"},
        "linux": {"namespaces": namespaces},
    });
    for (pointer, value) in more {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[name] = value.clone();
    }
    let container = ContainerSpec::parse(&serde_json::to_vec(&document).unwrap()).unwrap();
    Namespaces::parse(&container).map_err(|error| error.to_string())
}

#[test]
fn the_network_is_the_guests() {
    let namespaces = parse(
        &json!([{"type": "mount"}, {"type": "network"}, {"type": "pid"}]),
        &[],
    )
    .unwrap();
    assert_eq!(namespaces.at_start(), UnshareFlags::NEWNS | UnshareFlags::NEWPID);
}

#[test]
fn cgroup_and_time_come_later() {
    let namespaces = parse(
        &json!([{"type": "mount"}, {"type": "cgroup"}, {"type": "time"}]),
        &[],
    )
    .unwrap();
    assert_eq!(namespaces.at_start(), UnshareFlags::NEWNS);
}

#[test]
fn namespaces_of_another_container_are_shared() {
    let (namespaces, shares) = parse_with_shares(
        &json!([
            {"type": "mount"},
            {"type": "pid", "path": "container:other"},
            {"type": "uts", "path": "container:infra"},
            {"type": "ipc"},
        ]),
        &[("/hostname", json!("h"))],
    )
    .unwrap();
    assert_eq!(namespaces.at_start(), UnshareFlags::NEWNS | UnshareFlags::NEWIPC);
    assert!(namespaces.pid() && namespaces.uts() && !namespaces.ends_with_first());
    let said: Vec<_> = shares
        .iter()
        .map(|share| (share.container.as_str(), share.field.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("other", "linux.namespaces[1].path"),
            ("infra", "linux.namespaces[2].path")
        ]
    );
}

#[test]
fn what_cannot_be_is_refused() {
    for (namespaces, more, text) in [
        (
            json!([{"type": "mount"}, {"type": "mount"}]),
            vec![],
            "linux.namespaces[1]: a second mnt namespace",
        ),
        (
            json!([{"type": "network"}, {"type": "network"}]),
            vec![],
            "linux.namespaces[1]: a second net namespace",
        ),
        (
            json!([{"type": "pid", "path": "/proc/7/ns/pid"}]),
            vec![],
            "linux.namespaces[0].path: joining the pid namespace \"/proc/7/ns/pid\" is not supported",
        ),
        (
            json!([{"type": "mount", "path": "container:other"}]),
            vec![],
            "linux.namespaces[0].path: joining the mnt namespace \"container:other\" is not supported",
        ),
        (
            json!([{"type": "mount"}, {"type": "user", "path": "container:other"}]),
            vec![],
            "linux.namespaces[1].path: joining the user namespace \"container:other\" is not supported",
        ),
        (
            json!([{"type": "uts"}, {"type": "uts", "path": "container:other"}]),
            vec![],
            "linux.namespaces[1]: a second uts namespace",
        ),
        (
            json!([{"type": "mount"}, {"type": "time", "path": "container:other"}]),
            vec![("/linux/timeOffsets", json!({"boottime": {"secs": 1}}))],
            "linux.timeOffsets: the time namespace is another container's",
        ),
        (
            json!([]),
            vec![],
            "root: needs a mount namespace in linux.namespaces",
        ),
        (
            json!([{"type": "mount"}]),
            vec![("/hostname", json!("h"))],
            "hostname: needs a uts namespace in linux.namespaces",
        ),
        (
            json!([{"type": "mount"}, {"type": "user"}]),
            vec![],
            "linux.uidMappings: is missing, and there is a new user namespace",
        ),
        (
            json!([{"type": "mount"}]),
            vec![(
                "/linux/gidMappings",
                json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            )],
            "linux.gidMappings: needs a user namespace in linux.namespaces",
        ),
    ] {
        assert_eq!(parse(&namespaces, &more).unwrap_err(), text);
    }
}

#[test]
fn maps_are_written_as_the_kernel_reads_them() {
    let mappings: Vec<LinuxIdMapping> = serde_json::from_value(json!([
        {"containerID": 0, "hostID": 100_000, "size": 65_536},
        {"containerID": 65_536, "hostID": 7, "size": 1},
    ]))
    .unwrap();
    assert_eq!(id_map(&mappings), "0 100000 65536\n65536 7 1\n");
}
