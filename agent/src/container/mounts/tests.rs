use serde_json::json;

use super::*;

fn parse(mount: serde_json::Value) -> Result<PlannedMount, String> {
    let mount: Mount = serde_json::from_value(mount).unwrap();
    PlannedMount::parse(0, &mount).map_err(|error| error.to_string())
}

#[test]
fn a_cgroup_is_always_the_second_version() {
    let mount = parse(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "memory"]
    }))
    .unwrap();
    assert_eq!(mount.fstype, "cgroup2");
    assert_eq!(mount.options.data, []);
}

#[test]
fn the_type_bind_binds() {
    let mount = parse(json!({"destination": "dev", "type": "bind", "source": "/dev"})).unwrap();
    assert_eq!(mount.options.bind, Some(false));
    assert!(mount.is_bound_dev());
}

#[test]
fn what_cannot_be_mounted_is_refused() {
    for (mount, text) in [
        (
            json!({"destination": "/x", "source": "data", "options": ["rbind"]}),
            "mounts[0].source: \"data\" is not absolute",
        ),
        (json!({"destination": "/x"}), "mounts[0].type: is missing"),
        (
            json!({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}),
            "mounts[0].options: tmpcopyup is for a tmpfs",
        ),
    ] {
        assert_eq!(parse(mount).unwrap_err(), text);
    }
}

#[test]
fn a_tmpfs_becomes_read_only_after_its_content() {
    let tmpfs = parse(json!({"destination": "/run", "type": "tmpfs", "options": ["ro"]})).unwrap();
    assert!(tmpfs.read_only_later());
    let proc = parse(json!({"destination": "/proc", "type": "proc", "options": ["ro"]})).unwrap();
    assert!(!proc.read_only_later());
}
