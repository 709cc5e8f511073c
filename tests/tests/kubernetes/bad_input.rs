//! What cannot be run is refused with the cause in the error's text, which is what `kubectl describe` shows.

use std::fs;

use bulkhead_tests::harness::Image;
use serde_json::json;

use crate::node::{BUSYBOX, Node};

#[test]
fn the_error_says_what_is_wrong() {
    let broken = Image::new("localhost/broken:1", &["/no/such/entrypoint"]);
    let node = Node::with_images(std::slice::from_ref(&broken));
    let pod = node.pod(|_| ());
    let refused = |edit: &dyn Fn(&mut serde_json::Value)| {
        let created = pod.try_create(edit);
        let status = match created {
            Err(status) => status,
            Ok(container) => {
                let status = container.start().expect_err("it cannot start");
                container.remove();
                status
            }
        };
        status.message
    };
    let message = refused(&|config| config["image"]["image"] = json!(broken.name));
    assert!(message.contains("/no/such/entrypoint"), "{message}");
    let message = refused(&|config| {
        config["command"] = json!(["true"]);
        config["working_dir"] = json!("/bin/busybox");
    });
    assert!(message.contains("/bin/busybox"), "{message}");
    let message = refused(&|config| {
        config["command"] = json!(["true"]);
        config["devices"] =
            json!([{"container_path": "/dev/kvm", "host_path": "/dev/kvm", "permissions": "rwm"}]);
    });
    assert!(message.contains("/dev/kvm"), "{message}");
    let fine = pod.run("echo fine");
    assert_eq!(
        fine.success(),
        "fine\n",
        "the pod is none the worse for {BUSYBOX}"
    );
    pod.remove();
}

#[test]
fn a_node_that_cannot_start_machines_says_why() {
    let node = Node::new();
    let settings = "/etc/bulkhead/config.toml";
    let good: toml::Table = fs::read_to_string(settings).unwrap().parse().unwrap();
    let with = |key: &str, value: &str| {
        let mut bad = good.clone();
        bad.insert(key.into(), value.into());
        fs::write(settings, bad.to_string()).unwrap();
        let refused = node.try_pod(|_| ()).err().expect("it cannot start");
        assert_eq!(node.containerd.leftovers(), Vec::<String>::new());
        refused.message
    };
    let message = with("kernel", "/no/such/kernel");
    assert!(message.contains("/no/such/kernel"), "{message}");
    let message = with("no_such_setting", "1");
    assert!(message.contains("no_such_setting"), "{message}");
    fs::write(settings, good.to_string()).unwrap();
    let pod = node.pod(|_| ());
    pod.remove();
}
