//! linux.resources in the guest: the container's own limits, as its cgroup shows them.

use serde_json::json;

use super::checks::{check, refused};

#[test]
fn limits_are_those_of_the_containers_cgroup() {
    check(
        |config| {
            config["linux"]["resources"] = json!({
                "memory": {
                    "limit": 67_108_864, "reservation": 33_554_432, "swap": 100_663_296, "useHierarchy": true,
                    "checkBeforeUpdate": true, "kernel": 0, "kernelTCP": 0, "disableOOMKiller": false,
                },
                "cpu": {"shares": 2048, "quota": 50_000, "period": 200_000, "burst": 10_000},
                "pids": {"limit": 50},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
                "unified": {"memory.high": "50331648", "cpu.weight.nice": "-1"},
                "network": {},
                "rdma": {},
            });
        },
        &[
            (
                "linux.resources.memory",
                "cd /sys/fs/cgroup; cat memory.max memory.low memory.swap.max",
                "67108864\n33554432\n33554432",
            ),
            (
                "linux.resources.cpu",
                "cd /sys/fs/cgroup; cat cpu.max cpu.max.burst",
                "50000 200000\n10000",
            ),
            ("linux.resources.pids.limit", "cat /sys/fs/cgroup/pids.max", "50"),
            (
                "linux.resources.hugepageLimits",
                "cat /sys/fs/cgroup/hugetlb.2MB.max",
                "4194304",
            ),
            (
                "linux.resources.unified",
                "cat /sys/fs/cgroup/memory.high /sys/fs/cgroup/cpu.weight.nice",
                "50331648\n-1",
            ),
        ],
    );
}

#[test]
fn no_limit_is_minus_one_and_idle_is_idle() {
    check(
        |config| {
            config["linux"]["resources"] = json!({
                "memory": {"limit": -1, "swap": -1},
                "cpu": {"idle": 1, "quota": -1},
                "pids": {"limit": -1},
            });
        },
        &[
            (
                "linux.resources.memory",
                "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max",
                "max\nmax",
            ),
            ("linux.resources.cpu.idle", "cat /sys/fs/cgroup/cpu.idle", "1"),
            (
                "linux.resources.cpu.quota",
                "cat /sys/fs/cgroup/cpu.max",
                "max 100000",
            ),
            ("linux.resources.pids.limit", "cat /sys/fs/cgroup/pids.max", "max"),
        ],
    );
}

#[test]
fn a_pids_limit_of_zero_lets_the_program_run_alone() {
    let host = bulkhead_tests::harness::Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "read x < /sys/fs/cgroup/pids.max; echo $x; ls; :"]);
        config["linux"]["resources"] = json!({"pids": {"limit": 0}});
    });
    let output = host.run(&bundle).output();
    assert_eq!(output.stdout(), "1\n", "{output:?}");
    assert!(output.stderr().contains("can't fork"), "{output:?}");
}

#[test]
fn what_no_cgroup_can_do_is_an_error() {
    refused(
        |config| config["linux"]["resources"] = json!({"unified": {"rdma.max": "x"}}),
        &["linux.resources.unified \"rdma.max\"", "no rdma.max"],
    );
    refused(
        |config| config["linux"]["resources"] = json!({"unified": {"memory.max": "much"}}),
        &["linux.resources.unified \"memory.max\"", "much"],
    );
    refused(
        |config| config["linux"]["resources"] = json!({"unified": {"../memory.max": "1"}}),
        &["linux.resources.unified"],
    );
    refused(
        |config| config["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "3KB", "limit": 1}]}),
        &["linux.resources.hugepageLimits[0]", "3KB"],
    );
    refused(
        |config| config["linux"]["resources"] = json!({"memory": {"limit": 67_108_864, "swap": 1}}),
        &["linux.resources.memory.swap", "less"],
    );
}
