//! `bulkhead check`, `bulkhead --version`: is this machine fit, and what is this?

use bulkhead_tests::harness::Host;

#[test]
fn a_fit_machine_passes() {
    let host = Host::new();
    let report = host.bulkhead().arg("check").output().success();
    for subject in [
        "processor",
        "KVM",
        "kernel",
        "initramfs",
        "VMM",
        "vhost",
        "cgroup v2",
    ] {
        let passed = |line: &str| {
            line.strip_prefix("OK ")
                .is_some_and(|rest| rest.trim_start().starts_with(subject))
        };
        assert!(report.lines().any(passed), "no OK for {subject}:\n{report}");
    }
}

#[test]
fn what_is_missing_fails_with_what_to_do() {
    let mut host = Host::new();
    host.settings.insert("kernel".into(), "/no/such/kernel".into());
    let output = host.bulkhead().arg("check").output().with_code(1);
    let report = output.stdout() + &output.stderr();
    let line = report.lines().find(|line| line.contains("/no/such/kernel"));
    assert!(line.is_some(), "{report}");
}

#[test]
fn a_machine_without_kvm_fails() {
    let host = Host::new();
    let check = host.bulkhead().arg("check");
    let output = check
        .in_mount_namespace("mount --bind /dev/null /dev/kvm")
        .output()
        .with_code(1);
    let report = output.stdout() + &output.stderr();
    assert!(report.contains("/dev/kvm"), "{report}");
}

#[test]
fn a_kvm_that_cannot_run_stock_guests_fails() {
    let host = Host::new();
    let output = host.bulkhead().arg("check").output_with_poor_kvm().with_code(1);
    let report = output.stdout() + &output.stderr();
    assert!(
        report.contains("FAIL KVM") && report.contains("cannot run"),
        "{report}"
    );
}

#[test]
fn the_version_is_told() {
    let host = Host::new();
    let version = host.bulkhead().arg("--version").output().success();
    assert!(
        version.starts_with(concat!("bulkhead version ", env!("CARGO_PKG_VERSION"))),
        "{version}"
    );
}
