//! A machine grows with the limits of its containers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use bulkhead_tests::harness::{Bundle, Container, Host, Output, processes};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long a guest is given to report what it has freed. Linux does so every two seconds, a part at a time.
const REPORTS: Duration = Duration::from_secs(60);

/// A container that stays, and whose cgroup on the host has this name.
fn staying(host: &Host, cgroup: &str) -> Bundle {
    host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "100000"]);
        config["linux"]["cgroupsPath"] = json!(format!("/bulkhead/{cgroup}"));
    })
}

/// The same, in the machine of another one, with these limits.
fn member(host: &Host, owner: &Container, resources: &Value) -> Bundle {
    host.bundle(|config| {
        config["annotations"]["io.kubernetes.cri.container-type"] = json!("container");
        config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(owner.id);
        config["process"]["args"] = json!(["sleep", "100000"]);
        config["linux"]["resources"] = resources.clone();
    })
}

fn cgroup(name: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup/bulkhead").join(name)
}

/// A number in a file of a cgroup on the host.
fn on_host(cgroup: &Path, file: &str) -> u64 {
    let text = fs::read_to_string(cgroup.join(file)).unwrap();
    text.trim_end().parse().unwrap_or_else(|_| panic!("{text}"))
}

fn vmm_in(cgroup: &Path) -> Pid {
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    members
        .lines()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .find(|pid| processes::name(*pid).as_deref() == Some("bulkhead-vmm"))
        .expect("a VMM")
}

/// How much memory of the host a process has, in MiB.
fn resident(process: Pid) -> u64 {
    processes::status_mib(process, "VmRSS")
}

/// What the guest's kernel says of its memory, in MiB.
fn meminfo(container: &Container, field: &str) -> u64 {
    let line = container.shell(&format!("grep ^{field}: /proc/meminfo"));
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().unwrap() >> 10
}

/// The guest has so much. Its kernel keeps some for itself, and more for the pages that come.
#[track_caller]
fn assert_memory(container: &Container, mib: u64) {
    let total = meminfo(container, "MemTotal");
    assert!(
        (mib - 24 - mib / 64..mib).contains(&total),
        "{total} MiB for {mib}"
    );
}

fn update(container: &Container, options: &[&str]) -> Output {
    container.command("update").args(options).output()
}

#[test]
fn a_higher_limit_brings_memory() {
    let mut host = Host::new();
    host.settings.insert("max_memory_mib".into(), 500.into());
    let cgroup = cgroup("memory-test");
    let container = host.started(&staying(&host, "memory-test").with_program("workload"));
    let vmm = vmm_in(&cgroup);
    let (before, allowed) = (resident(vmm), on_host(&cgroup, "memory.max"));
    assert_memory(&container, 128);

    update(&container, &["--memory", "300m"]).success();
    // With memory_overhead_mib for the guest's kernel.
    assert_memory(&container, 364);
    assert_eq!(
        container.shell("cat /sys/fs/cgroup/memory.max"),
        format!("{}\n", 300 << 20)
    );
    let allowed_now = on_host(&cgroup, "memory.max");
    assert!(
        allowed_now >= allowed + (236 << 20),
        "{allowed}, then {allowed_now}"
    );
    let grown = resident(vmm);
    assert!(
        grown < before + 32,
        "{before} MiB, then {grown} MiB: nothing of it is used yet"
    );

    // More than all that the machine was started with.
    let mut hog = container.exec(&[], &["workload", "hog", "250"]).spawn();
    hog.wait_for("has 250 MiB");
    let used = resident(vmm);
    assert!(used > before + 200, "{before} MiB, then {used} MiB");
    drop(hog.stdin.take());
    assert_eq!(hog.wait().success(), "has 250 MiB\n");
    let deadline = Instant::now() + REPORTS;
    while resident(vmm) > used - 150 {
        assert!(
            Instant::now() < deadline,
            "{used} MiB, then {} MiB",
            resident(vmm)
        );
        thread::sleep(Duration::from_millis(100));
    }

    let refusal = update(&container, &["--memory", "501m", "--pids-limit", "5"]).refusal();
    assert!(
        refusal.contains(
            "linux.resources.memory.limit: 525336576 bytes are more than the virtual machine can have, which are 500 MiB"
        ),
        "{refusal}"
    );
    assert_eq!(container.shell("cat /sys/fs/cgroup/pids.max"), "max\n");
    // As much as there can be, with less left for the kernel.
    update(&container, &["--memory", "500m"]).success();
    assert_memory(&container, 500);
    update(&container, &["--memory", "50m"]).success();
    assert_memory(&container, 500);
    assert_eq!(
        container.shell("cat /sys/fs/cgroup/memory.max"),
        format!("{}\n", 50 << 20)
    );
    container.discard();
}

#[test]
fn a_large_machine_takes_of_the_host_what_it_uses() {
    let mut host = Host::new();
    host.settings.insert("memory_mib".into(), 1536.into());
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "100000"]);
        config["linux"]["cgroupsPath"] = json!("/bulkhead/large-test");
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let container = host.started(&bundle.with_program("workload"));
    let vmm = vmm_in(&cgroup("large-test"));
    assert_memory(&container, 1536);
    let free = || meminfo(&container, "MemFree");
    let at_first = free();
    assert!((1536 - 60..1536).contains(&at_first), "{at_first} MiB are free");
    let idle = resident(vmm);
    assert!(idle < 44, "{idle} MiB for a guest that does nothing");

    let mut hog = container.exec(&[], &["workload", "hog", "900"]).spawn();
    hog.wait_for("has 900 MiB");
    let used = resident(vmm);
    assert!(used > idle + 900, "{idle} MiB, then {used} MiB");
    let left = free();
    assert!((1536 - 1000..1536 - 900).contains(&left), "{left} MiB are free");
    let copied = "workload burst 30000000 > /dev/shm/burst && workload burst 30000000 | cmp - /dev/shm/burst";
    assert_eq!(container.shell(copied), "");
    drop(hog.stdin.take());
    hog.wait().success();

    // What looks at pages by their numbers, also at those that have never been used.
    let walked =
        "echo 1 > /proc/sys/vm/compact_memory && cat /proc/pagetypeinfo /proc/kpageflags > /dev/null";
    assert_eq!(container.shell(walked), "");
    assert_eq!(
        container
            .shell("cd /proc/sys/vm && echo 40 > nr_hugepages && cat nr_hugepages && echo 0 > nr_hugepages"),
        "40\n"
    );
    container.discard();
}

#[test]
fn a_higher_quota_brings_processors() {
    let mut host = Host::new();
    host.settings.insert("max_vcpus".into(), 3.into());
    let container = host.started(&staying(&host, "processors-test"));
    let cgroup = cgroup("processors-test");
    let vmm = vmm_in(&cgroup);
    let threads = || {
        let tasks = fs::read_dir(processes::file(vmm, "task")).unwrap();
        let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        names.filter(|name| name.starts_with("vcpu")).count()
    };
    let online = || container.shell("nproc; cat /sys/devices/system/cpu/online");
    assert_eq!((online().as_str(), threads()), ("1\n0\n", 1));

    let update = |quota: &str| update(&container, &["--cpu-quota", quota]);
    update("100000").success();
    assert_eq!((online().as_str(), threads()), ("1\n0\n", 1), "one can use it up");
    // A host without room for a thread.
    fs::write(cgroup.join("pids.max"), "1").unwrap();
    let refusal = update("150000").refusal();
    assert!(
        refusal.contains("the VMM: cannot start a virtual processor"),
        "{refusal}"
    );
    fs::write(cgroup.join("pids.max"), "max").unwrap();
    assert_eq!(
        container.shell("cat /sys/fs/cgroup/cpu.max"),
        "100000 100000\n",
        "nothing has changed"
    );
    update("150000").success();
    assert_eq!((online().as_str(), threads()), ("2\n0-1\n", 2));
    update("6400000").success();
    assert_eq!(
        (online().as_str(), threads()),
        ("3\n0-2\n", 3),
        "there can be no more"
    );
    update("50000").success();
    assert_eq!((online().as_str(), threads()), ("3\n0-2\n", 3), "they stay");
    container.discard();
}

#[test]
fn containers_that_join_bring_what_they_need_together() {
    let mut host = Host::new();
    host.settings.insert("max_vcpus".into(), 3.into());
    let cgroup = cgroup("joined-test");
    let owner = host.started(&staying(&host, "joined-test"));
    let join = |memory_mib: u64, quota: u64| {
        let resources =
            json!({"memory": {"limit": memory_mib << 20}, "cpu": {"quota": quota, "period": 100_000}});
        host.started(&member(&host, &owner, &resources))
    };
    let size = |container: &Container, mib, processors: &str| {
        assert_memory(container, mib);
        assert_eq!(container.shell("nproc"), format!("{processors}\n"));
    };
    let small = join(20, 50_000);
    size(&owner, 128, "1");
    let allowed = on_host(&cgroup, "memory.max");
    let large = join(150, 150_000);
    // 20, 150 and memory_overhead_mib.
    size(&large, 234, "3");
    assert!(on_host(&cgroup, "memory.max") >= allowed + (106 << 20));

    update(&small, &["--memory", "60m"]).success();
    size(&owner, 274, "3");
    assert_eq!(
        owner.shell("cat /sys/fs/cgroup/memory.max"),
        "max\n",
        "the owner's are its own"
    );
    // The owner's update leaves alone what others have brought.
    let allowed = on_host(&cgroup, "memory.max");
    update(&owner, &["--memory", "30m"]).success();
    size(&owner, 304, "3");
    assert!(on_host(&cgroup, "memory.max") > allowed);
    // What has ended counts no more.
    large.discard();
    update(&small, &["--memory", "180m"]).success();
    size(&owner, 304, "3");
    small.discard();
    owner.discard();
}

#[test]
fn a_guest_that_takes_no_memory_is_told_of() {
    let mut host = Host::new();
    let parameters = "initcall_blacklist=virtio_mem_driver_init";
    host.settings
        .insert("kernel_parameters".into(), parameters.into());
    let owner = host.started(&staying(&host, "unable-test"));
    let why =
        "the guest's kernel cannot take more memory (CONFIG_VIRTIO_MEM): it has no driver for the device";
    let refusal = update(&owner, &["--memory", "300m"]).refusal();
    assert!(refusal.contains(why), "{refusal}");
    assert_eq!(owner.shell("cat /sys/fs/cgroup/memory.max"), "max\n");

    let bundle = member(&host, &owner, &json!({"memory": {"limit": 300 << 20}}));
    let create = host.bulkhead().args(["create", "--bundle"]).arg(bundle.folder());
    let refusal = create.arg("joiner").output().refusal();
    assert!(
        refusal.contains("create container") && refusal.contains(why),
        "{refusal}"
    );
    update(&owner, &["--memory", "60m"]).success();
    owner.discard();
}
