//! Volumes, as the kubelet makes them on the node and hands them to containers.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use bulkhead_tests::harness::program;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::node::Node;

/// Writes a version of a configuration map's volume and makes it the current one, as the kubelet does.
fn publish(volume: &Path, version: &str, value: &str) {
    fs::create_dir(volume.join(version)).unwrap();
    fs::write(volume.join(version).join("key"), value).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

fn volume(path: &str, source: &Path) -> Value {
    json!({"container_path": path, "host_path": source})
}

fn read_only(mut volume: Value) -> Value {
    volume["readonly"] = json!(true);
    volume
}

#[test]
fn volumes_are_shared_updated_and_kept() {
    const GROUP: u32 = 4321;
    let node = Node::new();
    let disk = node.volume("disk");
    let memory = node.volume("memory");
    let in_memory = Some("tmpfs");
    mount(in_memory, &memory, in_memory, MsFlags::empty(), Some("size=8m")).unwrap();
    let map = node.volume("map");
    publish(&map, "..1", "old");
    symlink("..data/key", map.join("key")).unwrap();
    let grouped = node.volume("grouped");
    chown(&grouped, None, Some(GROUP)).unwrap();
    fs::set_permissions(&grouped, fs::Permissions::from_mode(0o2770)).unwrap();
    fs::create_dir(disk.join("part")).unwrap();
    let message = node.containerd.host().file("message", "");
    let settings = node.containerd.host().file("settings", "one file\n");

    let pod = node.pod(|_| ());
    let writer = pod.run_with(|config| {
        config["mounts"] = json!([
            volume("/disk", &disk),
            volume("/memory", &memory),
            read_only(volume("/map", &map)),
            volume("/part", &disk.join("part")),
            volume("/dev/termination-log", &message),
            read_only(volume("/etc/settings", &settings)),
            read_only(volume("/bin/workload", &program("workload"))),
        ]);
        config["command"] = json!([
            "sh",
            "-c",
            "cat /etc/settings /map/key; echo
            echo disk >/disk/file; echo memory >/memory/file; echo part >/part/file
            echo 'the last words' >/dev/termination-log
            touch /map/new /etc/settings 2>/dev/null && echo 'not read-only'
            df -m /memory | awk 'NR == 2 {print $2}'
            exec workload watch /map"
        ]);
    });
    writer.wait_for("watching\n");
    assert_eq!(fs::read_to_string(disk.join("part/file")).unwrap(), "part\n");
    assert_eq!(fs::read_to_string(&message).unwrap(), "the last words\n");
    assert_eq!(fs::read_to_string(memory.join("file")).unwrap(), "memory\n");

    // Another container, of a user who owns nothing, sees the same.
    let reader = pod.run_with(|config| {
        config["mounts"] = json!([
            volume("/disk", &disk),
            volume("/memory", &memory),
            read_only(volume("/map", &map)),
            volume("/grouped", &grouped),
        ]);
        config["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
        config["linux"]["security_context"]["supplemental_groups"] = json!([GROUP]);
        config["command"] = json!([
            "sh",
            "-c",
            "cat /disk/file /memory/file; echo mine >/grouped/file
            until [ \"$(cat /map/key)\" = new ]; do sleep 0.1; done; echo updated"
        ]);
    });
    reader.wait_for("disk\nmemory\n");
    publish(&map, "..2", "new");
    assert_eq!(reader.success(), "disk\nmemory\nupdated\n");
    writer.wait_for("..data\n");
    assert_eq!(writer.output("stdout"), "one file\nold\n8\nwatching\n..data\n");
    let file = fs::metadata(grouped.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, GROUP));
    pod.remove();
    assert_eq!(fs::read_to_string(disk.join("file")).unwrap(), "disk\n");
    umount2(&memory, MntFlags::empty()).unwrap();
}
