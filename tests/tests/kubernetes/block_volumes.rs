//! Volumes of `volumeMode: Block`, which containers have as devices.

use std::fs;

use bulkhead_tests::harness::Loop;
use serde_json::{Value, json};

use crate::node::Node;

/// A device of the node's for a container, as the kubelet hands it over.
fn device(disk: &Loop, path: &str, permissions: &str) -> Value {
    json!({"container_path": path, "host_path": disk.node(), "permissions": permissions})
}

#[test]
fn block_volumes_come_and_go_with_their_containers() {
    let node = Node::new();
    let disks: Vec<_> = (0..6)
        .map(|number| Loop::new(node.containerd.host(), &format!("disk-{number}")))
        .collect();
    let shared = &disks[0];
    let pod = node.pod(|_| ());
    let writer = pod.run_with(|config| {
        config["devices"] = json!([device(shared, "/dev/data", "mrw")]);
        let script = "stat -c %F /dev/data; printf 'from a pod' | dd of=/dev/data conv=notrunc 2>/dev/null
            echo written; exec sleep 1000000";
        config["command"] = json!(["sh", "-c", script]);
    });
    writer.wait_for("written\n");
    assert_eq!(writer.output("stdout"), "block special file\nwritten\n");

    // Another container has the same one, and may only read.
    let reader = pod.run_with(|config| {
        config["devices"] = json!([device(shared, "/dev/same", "r")]);
        let script = "head -c 10 /dev/same; echo; (echo x >/dev/same) 2>/dev/null || echo refused";
        config["command"] = json!(["sh", "-c", script]);
    });
    assert_eq!(reader.success(), "from a pod\nrefused\n");
    writer.stop(0);
    writer.wait();
    // What was written is there when the container has ended, and the node has the device for itself.
    assert!(fs::read(shared.node()).unwrap().starts_with(b"from a pod"));
    shared.detach();
    node.wait_for("the device to be let go of", || {
        (!shared.is_attached()).then_some(())
    });

    // A machine has places for four; what a refused container would have had is free again.
    let with = |disks: &[Loop]| {
        let devices: Vec<_> = (0..)
            .zip(disks)
            .map(|(number, disk)| device(disk, &format!("/dev/data{number}"), "mrw"))
            .collect();
        let script =
            "for disk in /dev/data*; do echo $disk | dd of=$disk conv=notrunc 2>/dev/null; done; echo done";
        pod.try_create(|config| {
            config["devices"] = devices.into();
            config["command"] = json!(["sh", "-c", script]);
        })
        .unwrap()
    };
    let many = with(&disks[1..]);
    let message = many.start().expect_err("one too many").message;
    for words in ["linux.devices[4]", "no slot is free for another disk"] {
        assert!(message.contains(words), "{message}");
    }
    let four = with(&disks[2..]);
    four.start().unwrap();
    assert_eq!(four.success(), "done\n");
    pod.remove();
    assert!(fs::read(disks[5].node()).unwrap().starts_with(b"/dev/data3\n"));
}
