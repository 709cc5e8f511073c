//! A guest has the processors and the memory that it is given.

use std::thread;
use std::time::{Duration, Instant};

use bulkhead_tests::harness::{Host, processes};
use serde_json::json;

/// How long a guest is given to report what it has freed. Linux does so every two seconds, a part at a time.
const REPORTS: Duration = Duration::from_secs(60);

#[test]
fn several_processors() {
    let mut host = Host::new();
    host.settings.insert("vcpus".into(), 3.into());
    let script = "nproc; grep -c ^processor /proc/cpuinfo";
    assert_eq!(host.run(&host.script(script)).output().success(), "3\n3\n");
}

#[test]
fn memory_beyond_4_gib() {
    let mut host = Host::new();
    // On the host it is not reserved, and only what the guest touches is taken.
    host.settings.insert("memory_mib".into(), 5120.into());
    let script = "grep ^MemTotal: /proc/meminfo";
    let output = host.run(&host.script(script)).output().success();
    let kib: u32 = output
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{output}"));
    // The kernel keeps 1/64 for its page structures, and its own image.
    assert!((4800 << 10..5120 << 10).contains(&kib), "{kib} KiB");
}

#[test]
fn what_the_guest_frees_the_host_has_back() {
    let mut host = Host::new();
    host.settings.insert("memory_mib".into(), 256.into());
    let bundle = host
        .bundle(|config| {
            let script = "hog() { read line; workload hog 100 </dev/null; echo freed; }; echo up; hog; hog";
            config["process"]["args"] = json!(["sh", "-c", script]);
        })
        .with_program("workload");
    let mut running = host.run(&bundle).spawn();
    running.wait_for("up");
    let vmm = running.vmm();
    let resident = || processes::status_mib(vmm, "VmRSS");
    let before = resident();
    running.send("\n");
    running.wait_for("freed");
    // The most there was: a report that was due for something else may have taken some of it along by now.
    let touched = processes::status_mib(vmm, "VmHWM");
    assert!(touched > before + 60, "{before} MiB, then {touched} MiB");
    let deadline = Instant::now() + REPORTS;
    while resident() > touched - 60 {
        assert!(
            Instant::now() < deadline,
            "{before} MiB, {touched} MiB, then {} MiB",
            resident()
        );
        thread::sleep(Duration::from_millis(100));
    }
    // What has been given back can be used again.
    running.send("\n");
    assert_eq!(
        running.wait().success().matches("has 100 MiB\nfreed\n").count(),
        2
    );
}

#[test]
fn one_that_idles_is_not_woken_to_compact_memory() {
    let host = Host::new();
    // With the guest's own process ids it sees the threads of the guest's kernel.
    let bundle = host.bundle(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        let wakes = "grep ^voluntary $(dirname $(grep -l ^kcompactd /proc/[0-9]*/comm))/status";
        config["process"]["args"] = json!(["sh", "-c", format!("{wakes}; sleep 3; {wakes}")]);
    });
    let output = host.run(&bundle).output().success();
    let lines: Vec<_> = output.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{output}");
}

#[test]
fn one_whose_kernel_has_lost_its_way_ends() {
    let host = Host::new();
    let output = host
        .run(&host.script("cat /proc/sys/kernel/panic_on_oops"))
        .output();
    assert_eq!(output.with_code(0).stdout(), "1\n");
}
