//! A guest has the processors and the memory that it is given.

use bulkhead_tests::harness::Host;

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
