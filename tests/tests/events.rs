//! What a container tells of itself.

use bulkhead_tests::harness::Host;
use serde_json::{Value, json};

#[test]
fn figures_and_want_of_memory_are_told_until_the_end() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] =
            json!(["sh", "-c", "while ! test -e /tmp/go; do sleep 0.1; done; exit 3"]);
        config["linux"]["resources"] = json!({"memory": {"limit": 24 << 20}, "pids": {"limit": 50}});
    });
    let container = host.started(&bundle);

    let once = host
        .bulkhead()
        .args(["events", "--stats"])
        .arg(&container.id)
        .output()
        .success();
    assert_eq!(once.lines().count(), 1);
    let event: Value = serde_json::from_str(&once).unwrap();
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("stats"), &json!(&container.id))
    );
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64() > Some(0), "{data}");
    assert_eq!(data["memory"]["usage"]["limit"], 24 << 20);
    assert!(data["memory"]["usage"]["usage"].as_u64() > Some(0), "{data}");
    assert!(data["memory"]["raw"]["anon"].is_u64(), "{data}");
    assert!(data["pids"]["current"].as_u64() > Some(0), "{data}");
    assert_eq!(data["pids"]["limit"], 50);
    for section in ["cpuset", "blkio", "hugetlb", "intel_rdt"] {
        assert!(data[section].is_object(), "{section} in {data}");
    }

    let events = host
        .bulkhead()
        .args(["events", "--interval", "300ms"])
        .arg(&container.id)
        .spawn();
    events.wait_for("\"type\":\"stats\"");
    // The hog is the one that is killed.
    container
        .exec(
            &[],
            &[
                "sh",
                "-c",
                "echo 1000 > /proc/self/oom_score_adj; exec tail /dev/zero",
            ],
        )
        .output()
        .with_code(137);
    let told = events.wait_for("\"type\":\"oom\"");
    assert!(
        told.contains(&format!("{{\"type\":\"oom\",\"id\":\"{}\"}}\n", &container.id)),
        "{told}"
    );
    let _ = container.shell("touch /tmp/go");
    let text = events.wait().success();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["id"], *container.id);
    }
    while container.status() != "stopped" {}
    let refusal = container.command("events").output().refusal();
    assert_eq!(
        refusal,
        format!("bulkhead: container with id {} is not running", &container.id)
    );
    container.discard();
}
