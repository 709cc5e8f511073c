//! The limits of a container that runs.

use std::{fs, io::Write, path::Path};

use bulkhead_tests::harness::{Container, Host};
use serde_json::json;

fn limit(container: &Container, file: &str) -> String {
    container
        .shell(&format!("cat /sys/fs/cgroup/{file}"))
        .trim_end()
        .to_owned()
}

/// The number of a block device of the host, as `MAJOR:MINOR`.
fn block_device() -> String {
    let mut devices = fs::read_dir("/sys/block").unwrap();
    let device = devices.next().expect("a block device").unwrap().path();
    fs::read_to_string(device.join("dev"))
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn limits_change_while_the_container_runs() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "100000"]);
        config["linux"]["cgroupsPath"] = json!("/bulkhead/update-test");
        config["linux"]["resources"] = json!({"cpu": {"quota": 50_000, "period": 100_000}});
    });
    let container = host.started(&bundle);
    let update = |options: &[&str]| container.command("update").args(options).output();

    update(&[
        "--memory",
        "48m",
        "--memory-reservation",
        "1m",
        "--pids-limit",
        "20",
    ])
    .success();
    assert_eq!(limit(&container, "memory.max"), (48 << 20).to_string());
    assert_eq!(limit(&container, "memory.low"), (1 << 20).to_string());
    assert_eq!(limit(&container, "pids.max"), "20");
    // More processors than the machine has are no limit, and no error.
    update(&["--cpu-quota", "6400000"]).success();
    assert_eq!(limit(&container, "cpu.max"), "6400000 100000");
    update(&["--cpu-quota", "50000"]).success();
    // A limit that means something beside others keeps them.
    update(&["--cpu-period", "80000"]).success();
    assert_eq!(limit(&container, "cpu.max"), "50000 80000");
    update(&["--memory-swap", "-1"]).success();
    assert_eq!(limit(&container, "memory.max"), (48 << 20).to_string());
    update(&["--cpu-quota", "-1", "--cpu-share", "2048"]).success();
    assert_eq!(limit(&container, "cpu.max"), "max 80000");
    update(&["--pids-limit", "-1"]).success();
    assert_eq!(limit(&container, "pids.max"), "max");
    update(&[]).success();

    let file = host.file(
        "limits.json",
        json!({"pids": {"limit": 33}, "devices": []}).to_string(),
    );
    update(&["--resources", file.to_str().unwrap(), "--pids-limit", "1"]).success();
    assert_eq!(limit(&container, "pids.max"), "33");
    let mut running = container.command("update").args(["-r", "-"]).spawn();
    let mut stdin = running.stdin.take().unwrap();
    stdin
        .write_all(br#"{"pids": {"limit": 34}, "memory": null}"#)
        .unwrap();
    drop(stdin);
    running.wait().success();
    assert_eq!(limit(&container, "pids.max"), "34");

    let refused = |options: &[&str], text: &str| {
        let refusal = update(options).refusal();
        assert!(refusal.contains(text), "{refusal}");
    };
    refused(
        &["--memory", "1t"],
        "linux.resources.memory.limit: 1099511627776 bytes are more than the virtual machine can have",
    );
    let on_host = |file: &str| {
        let cgroup = Path::new("/sys/fs/cgroup/bulkhead/update-test");
        fs::read_to_string(cgroup.join(file)).unwrap()
    };
    // Block devices have the host's numbers, and are limited there.
    let number = block_device();
    let (major, minor) = number.split_once(':').unwrap();
    let throttle = format!(
        r#"{{"blockIO": {{"throttleReadBpsDevice": [{{"major": {major}, "minor": {minor}, "rate": 1048576}}]}}}}"#
    );
    let file = host.file("throttle.json", throttle);
    update(&["-r", file.to_str().unwrap()]).success();
    assert_eq!(
        on_host("io.max"),
        format!("{number} rbps=1048576 wbps=max riops=max wiops=max\n")
    );

    // What the guest refuses the host does not keep either.
    let before = on_host("cpu.max");
    refused(
        &["--memory", "1t", "--cpu-quota", "20000"],
        "linux.resources.memory.limit",
    );
    assert_eq!(on_host("cpu.max"), before);
    refused(
        &["--memory", "40m", "--pids-limit", "5", "--cpu-period", "7"],
        "linux.resources.cpu",
    );
    assert_eq!(
        limit(&container, "memory.max"),
        (48 << 20).to_string(),
        "it was set back"
    );
    assert_eq!(limit(&container, "pids.max"), "34");
    refused(&["--memory", "xx"], "invalid value for --memory");
    refused(
        &["--kernel-memory", "1m"],
        "linux.resources.memory.kernel: it is of cgroup v1",
    );
    refused(&["--cpu-rt-period", "1000"], "linux.resources.cpu.realtimePeriod");
    refused(&["--l3-cache-schema", "L3:0=f"], "linux.intelRdt.l3CacheSchema");
    let bad = host.file("bad.json", "{bad");
    refused(&["-r", bad.to_str().unwrap()], "not valid JSON");

    container.kill("KILL");
    let nobody = host
        .bulkhead()
        .args(["update", "--pids-limit", "3", "nobody"])
        .output()
        .refusal();
    assert!(nobody.contains("container does not exist"), "{nobody}");
    container.discard();
}
