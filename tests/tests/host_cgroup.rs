//! The sandbox's cgroup on the host: where it is, what it limits, and that it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_tests::harness::{Host, LIMIT, Running, Systemd, processes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const MIB: u64 = 1 << 20;
/// What every sandbox of these tests has, in MiB.
const GUEST_MEMORY: u64 = 128;

/// A script that says what its own cgroup limits, and then that it is ready, and stays.
const SHOW_AND_STAY: &str =
    "cd /sys/fs/cgroup; cat cpu.max; cat cpuset.cpus io.max; echo ready; exec sleep 100000";

fn read(cgroup: &Path, file: &str) -> String {
    let path = cgroup.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim_end().to_owned()
}

/// A number of a file of lines of names and numbers.
fn number(cgroup: &Path, file: &str, name: &str) -> u64 {
    let text = read(cgroup, file);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    line.parse().expect("a number")
}

fn members(cgroup: &Path) -> Vec<i32> {
    read(cgroup, "cgroup.procs")
        .lines()
        .map(|pid| pid.parse().expect("a pid"))
        .collect()
}

fn end(running: Running) {
    running.signal(Signal::SIGKILL);
    running.wait();
}

#[test]
fn a_sandbox_is_limited_where_cgroups_path_says() {
    let host = Host::new();
    let cgroup = Path::new("/sys/fs/cgroup/bulkhead/test/one");
    // One that is there and empty is used.
    fs::create_dir_all(cgroup).expect("a cgroup");
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", SHOW_AND_STAY]);
        config["linux"]["cgroupsPath"] = json!("test/one");
        config["linux"]["resources"] = json!({
            "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
            "cpu": {"shares": 2048, "quota": 90_000, "period": 100_000, "cpus": "0", "mems": "0"},
            "blockIO": {"weight": 1000},
        });
    });
    let running = host.run(&bundle).spawn();
    let output = running.wait_for("ready\n");
    assert_eq!(
        output, "90000 100000\n\nready\n",
        "the container's own limits; no processors or devices of the host's"
    );

    let overhead = GUEST_MEMORY / 128 + 64;
    let expected = [
        ("memory.max", ((GUEST_MEMORY + overhead) * MIB).to_string()),
        ("memory.swap.max", "0".to_owned()),
        ("cpu.max", "90000 100000".to_owned()),
        ("cpu.weight", "174".to_owned()),
        ("cpuset.cpus", "0".to_owned()),
        ("cpuset.mems", "0".to_owned()),
        ("io.weight", "default 10000".to_owned()),
    ];
    for (file, value) in expected {
        assert_eq!(read(cgroup, file), value, "{file}");
    }
    let members = members(cgroup);
    assert!(members.contains(&running.vmm().as_raw()), "{members:?}");
    assert_eq!(members.len(), 2, "the VMM and its monitor");
    end(running);
    fs::remove_dir(cgroup.parent().expect("a parent")).expect("nothing is left in it");
}

#[test]
fn what_cannot_be_a_sandboxs_cgroup_is_refused() {
    let host = Host::new();
    let taken = PathBuf::from("/sys/fs/cgroup/bulkhead-test-taken");
    fs::create_dir(&taken).expect("a cgroup");
    let mut sleeper = Command::new("sleep").arg("100000").spawn().expect("sleep");
    fs::write(taken.join("cgroup.procs"), sleeper.id().to_string()).expect("a member");
    let refusal = |path: &str, resources: serde_json::Value| {
        let bundle = host.bundle(|config| {
            config["linux"]["cgroupsPath"] = json!(path);
            config["linux"]["resources"] = resources;
        });
        host.run(&bundle).output().refusal()
    };
    let error = refusal("/bulkhead-test-taken", json!({}));
    assert!(
        error.contains("/sys/fs/cgroup/bulkhead-test-taken: there are processes in it"),
        "{error}"
    );
    // With processes of its own it cannot hand controllers down.
    let error = refusal("/bulkhead-test-taken/child", json!({"cpu": {"quota": 50_000}}));
    assert!(
        error.contains("linux.resources.cpu.quota: needs cpu.max of the cgroup controller \"cpu\""),
        "{error}"
    );
    let error = refusal("/", json!({}));
    assert!(
        error.contains("linux.cgroupsPath: \"/\" does not name"),
        "{error}"
    );
    let error = refusal("", json!({"cpu": {"cpus": "4000"}}));
    assert!(
        error.contains("linux.resources.cpu.cpus: the host does not take \"4000\" for cpuset.cpus"),
        "{error}"
    );
    assert!(processes::status_field(Pid::from_raw(sleeper.id().cast_signed()), "State").starts_with('S'));
    sleeper.kill().expect("it runs");
    sleeper.wait().expect("a child");
    fs::remove_dir(&taken).expect("nothing is left in it");
}

/// The limit of the container is kept in the guest; that of the sandbox is above all that the guest can use.
#[test]
fn a_container_that_fills_its_memory_does_not_bring_its_vmm_down() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| {
            let script = "workload hog 90; echo hog ended with $?; workload hog 40";
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["linux"]["cgroupsPath"] = json!("/bulkhead/memory-test");
            config["linux"]["resources"] = json!({"memory": {"limit": 64 * MIB}});
        })
        .with_program("workload");
    let mut running = host.run(&bundle).spawn();
    let output = running.wait_for("has 40 MiB\n");
    assert_eq!(output, "hog ended with 137\nhas 40 MiB\n");

    let cgroup = Path::new("/sys/fs/cgroup/bulkhead/memory-test");
    assert_eq!(number(cgroup, "memory.events", "oom_kill"), 0);
    let used: u64 = ["anon", "shmem", "kernel"]
        .iter()
        .map(|kind| number(cgroup, "memory.stat", kind))
        .sum();
    // Half of the overhead is there for further processes.
    assert!(used < (GUEST_MEMORY + 32) * MIB, "{} MiB", used / MIB);
    println!(
        "{} MiB in use, peak {} MiB\n{}",
        used / MIB,
        read(cgroup, "memory.peak").parse::<u64>().expect("a number") / MIB,
        read(cgroup, "memory.stat")
    );
    drop(running.stdin.take());
    running.wait().with_code(0);
}

/// As if all had been killed before the first record was written.
#[test]
fn delete_finds_the_cgroup_of_a_container_without_a_record() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo ready; exec sleep 100000"]);
        config["linux"]["cgroupsPath"] = json!("/bulkhead-test-early/a");
    });
    let id = host.new_id();
    let running = host.run_as(&bundle, &id).spawn();
    running.wait_for("ready");
    let cgroup = Path::new("/sys/fs/cgroup/bulkhead-test-early/a");
    let vmm = running.vmm();
    running.signal(Signal::SIGSTOP);
    for pid in members(cgroup) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is alive");
    }
    assert!(processes::wait_for_end(vmm, LIMIT));
    end(running);
    fs::remove_file(host.state().join(&id).join("state.json")).expect("the record");
    assert!(cgroup.exists());

    let output = host.bulkhead().args(["delete", &id]).output().with_code(1);
    assert!(output.stderr().contains("not stopped"), "{output:?}");
    host.bulkhead()
        .args(["delete", "--force", &id])
        .output()
        .success();
    assert!(!cgroup.exists());
    fs::remove_dir("/sys/fs/cgroup/bulkhead-test-early").expect("nothing is left in it");
}

#[test]
fn systemd_keeps_a_sandbox_in_a_scope() {
    let host = Host::new();
    let systemd = Systemd::start(&host);
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", SHOW_AND_STAY]);
        config["linux"]["cgroupsPath"] = json!("test-pods.slice:pod:one");
        config["linux"]["resources"] = json!({
            "cpu": {"shares": 2048, "quota": 150_000, "period": 100_000, "cpus": "0"},
            "blockIO": {"weight": 1000},
        });
    });
    let id = host.new_id();
    let run = || {
        host.bulkhead()
            .args(["--systemd-cgroup", "run", "--bundle"])
            .arg(bundle.folder())
            .arg(&id)
            .in_host_of(&systemd)
    };
    let running = run().spawn();
    running.wait_for("ready\n");

    let properties = systemd.systemctl(&[
        "show",
        "pod-one.scope",
        "--property=ActiveState,ControlGroup,Delegate,MemoryMax,CPUQuotaPerSecUSec,CPUWeight,AllowedCPUs",
    ]);
    let memory = (GUEST_MEMORY + GUEST_MEMORY / 128 + 64) * MIB;
    for expected in [
        "ActiveState=active",
        "ControlGroup=/test.slice/test-pods.slice/pod-one.scope",
        "Delegate=yes",
        &format!("MemoryMax={memory}"),
        "CPUQuotaPerSecUSec=1.500000s",
        "CPUWeight=174",
        "AllowedCPUs=0",
    ] {
        assert!(
            properties.lines().any(|line| line == expected),
            "{expected}: {properties}"
        );
    }
    let cgroup = systemd.cgroup("test.slice/test-pods.slice/pod-one.scope");
    // systemd has no property for it.
    assert_eq!(read(&cgroup, "io.weight"), "default 10000");
    assert_eq!(read(&cgroup, "cpu.max"), "150000 100000");
    let members = members(&cgroup);
    assert!(members.contains(&running.vmm().as_raw()), "{members:?}");
    assert_eq!(
        members.len(),
        2,
        "the VMM and its monitor, and nothing that kept their place"
    );

    // Another one by that name is refused, and takes nothing with it.
    let error = host
        .bulkhead()
        .args(["--systemd-cgroup", "run", "--bundle"])
        .arg(bundle.folder())
        .arg(host.new_id())
        .in_host_of(&systemd)
        .output()
        .refusal();
    assert!(
        error.contains("pod-one.scope: there are processes in it"),
        "{error}"
    );

    // That it is a scope is known from the state, not from the command line.
    host.bulkhead()
        .args(["delete", "--force", &id])
        .in_host_of(&systemd)
        .output()
        .success();
    running.wait();
    assert!(!cgroup.exists());
    let units = systemd.systemctl(&["list-units", "--all", "--no-legend", "pod-*"]);
    assert_eq!(units, "", "systemd has forgotten it");
}

#[test]
fn systemd_that_is_not_there_is_told() {
    let host = Host::new();
    let bundle = host.script("true");
    let error = host
        .bulkhead()
        .args(["--systemd-cgroup", "run", "--bundle"])
        .arg(bundle.folder())
        .arg(host.new_id())
        .in_mount_namespace("mount -t tmpfs tmpfs /run")
        .output()
        .refusal();
    assert!(error.contains("--systemd-cgroup: the system's D-Bus"), "{error}");
}
