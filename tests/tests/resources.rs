//! Limits hold.

use bulkhead_tests::harness::Host;
use serde_json::json;

#[test]
fn a_memory_limit_kills_the_hog() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| {
            config["process"]["args"] = json!(["workload", "hog", "60"]);
            config["linux"]["resources"] = json!({"memory": {"limit": 32 << 20}});
        })
        .with_program("workload");
    let output = host.run(&bundle).output().with_code(137);
    assert_eq!(output.stdout(), "");
}

#[test]
fn what_is_below_the_memory_limit_is_let_be() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| {
            config["process"]["args"] = json!(["workload", "hog", "20"]);
            config["linux"]["resources"] = json!({"memory": {"limit": 32 << 20}});
        })
        .with_program("workload");
    assert_eq!(host.run(&bundle).output().success(), "has 20 MiB\n");
}

#[test]
fn a_pids_limit_holds() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| {
            config["process"]["args"] = json!(["workload", "fork", "20"]);
            config["linux"]["resources"] = json!({"pids": {"limit": 8}});
        })
        .with_program("workload");
    let output = host.run(&bundle).output().success();
    assert_eq!(output, "7 processes, then EAGAIN\n", "8 with the one that forks");
}

#[test]
fn limits_are_in_the_containers_cgroup() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let script = "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat memory.max memory.low pids.max cpu.max";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["resources"] = json!({
            "memory": {"limit": 33 << 20, "reservation": 10 << 20},
            "pids": {"limit": 17},
            "cpu": {"quota": 40_000, "period": 80_000},
        });
    });
    let output = host.run(&bundle).output().success();
    assert_eq!(output, "0::/\n34603008\n10485760\n17\n40000 80000\n");
}
