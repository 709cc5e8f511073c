//! Limits of pods and containers, and what they use.

use bulkhead_tests::harness::{processes, program};
use nix::unistd::Pid;
use serde_json::json;

use crate::cri::messages::{ContainerStatsResponse, Empty, UpdateContainerResourcesRequest};
use crate::node::Node;

const MIB: u64 = 1 << 20;

#[test]
fn limits_hold_are_changed_and_use_is_told() {
    let node = Node::new();
    let pod = node.pod(|config| {
        config["linux"]["resources"] = json!({"memory_limit_in_bytes": (256 * MIB).to_string()});
    });
    let workload =
        json!([{"container_path": "/bin/workload", "host_path": program("workload"), "readonly": true}]);
    let steady = pod.run_with(|config| {
        config["command"] = json!(["sh", "-c", "sleep 1000000 | workload hog 16"]);
        config["mounts"] = workload.clone();
        config["linux"]["resources"] =
            json!({"memory_limit_in_bytes": (64 * MIB).to_string(), "cpu_quota": 50000, "cpu_period": 100_000});
    });
    steady.wait_for("has 16 MiB\n");
    let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
    assert_eq!(steady.exec(limits), format!("{}\n50000 100000\n", 64 * MIB));

    // One takes more than it may.
    let greedy = pod.run_with(|config| {
        config["command"] = json!(["workload", "hog", "200"]);
        config["mounts"] = workload.clone();
        config["linux"]["resources"] = json!({"memory_limit_in_bytes": (32 * MIB).to_string()});
    });
    assert_eq!(greedy.wait().exit_code, 137);
    // The news of the cause may come after that of the end.
    node.wait_for("OOMKilled", || {
        (greedy.status().reason == "OOMKilled").then_some(())
    });
    assert!(steady.is_running());

    let update = json!({
        "container_id": steady.id,
        "linux": {"memory_limit_in_bytes": (96 * MIB).to_string(), "cpu_quota": 75000, "cpu_period": 100_000},
    });
    node.call::<UpdateContainerResourcesRequest, Empty>("UpdateContainerResources", &update)
        .unwrap_or_else(|status| panic!("{status}"));
    assert_eq!(steady.exec(limits), format!("{}\n75000 100000\n", 96 * MIB));

    // More than the pod was made with: its machine grows.
    let update = json!({
        "container_id": steady.id,
        "linux": {"memory_limit_in_bytes": (400 * MIB).to_string(), "cpu_quota": 75000, "cpu_period": 100_000},
    });
    node.call::<UpdateContainerResourcesRequest, Empty>("UpdateContainerResources", &update)
        .unwrap_or_else(|status| panic!("{status}"));
    assert_eq!(steady.exec(limits), format!("{}\n75000 100000\n", 400 * MIB));
    assert_eq!(steady.exec("workload hog 340 < /dev/null"), "has 340 MiB\n");
    let beyond =
        json!({"container_id": steady.id, "linux": {"memory_limit_in_bytes": (1u64 << 40).to_string()}});
    let refusal = node
        .call::<UpdateContainerResourcesRequest, Empty>("UpdateContainerResources", &beyond)
        .expect_err("no host has that");
    assert!(
        refusal
            .to_string()
            .contains("1099511627776 bytes are more than the virtual machine can have"),
        "{refusal}"
    );
    let stats: ContainerStatsResponse = steady.call("ContainerStats").expect("stats");
    let memory = stats.stats.memory.working_set_bytes.value;
    assert!((16 * MIB..96 * MIB).contains(&memory), "{memory}");
    assert!(stats.stats.cpu.usage_core_nano_seconds.value > 0);

    // What the pod costs the host is accounted to its cgroup.
    let of_pod: Vec<String> = processes::all()
        .into_iter()
        .filter(|pid| is_in(*pid, &pod.cgroup))
        .filter_map(processes::name)
        .collect();
    assert!(of_pod.iter().any(|name| name == "bulkhead-vmm"), "{of_pod:?}");
    pod.remove();
}

/// Whether a process is in a cgroup or one below it.
fn is_in(pid: Pid, cgroup: &std::path::Path) -> bool {
    let own = std::fs::read_to_string(processes::file(pid, "cgroup")).unwrap_or_default();
    let own = own.trim_end().strip_prefix("0::/").unwrap_or_default();
    std::path::Path::new("/sys/fs/cgroup")
        .join(own)
        .starts_with(cgroup)
}
