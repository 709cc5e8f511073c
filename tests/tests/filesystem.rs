//! Files behave in a container as they do on the host.

use std::fs;
use std::process::Command;

use bulkhead_tests::harness::{Host, program};
use serde_json::json;

/// What root needs to do with files what root may.
const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETUID",
];

/// Linux carries the support of access control lists not over to the mounts that a virtio-fs device announces, and the
/// container's root is one: there they are refused.
const REFUSED: [&str; 3] = [
    "an access control list changes the mode: EOPNOTSUPP",
    "a default access control list is inherited: EOPNOTSUPP",
    "an access control list lets a user in: EOPNOTSUPP",
];

/// Some ninety operations, each of which says how it ended: a line of the output each.
#[test]
fn file_operations_end_as_they_do_on_the_host() {
    let host = Host::new();
    let native = Command::new(program("fs-operations"))
        .arg(host.directory("native"))
        .output()
        .unwrap();
    assert!(native.status.success(), "{native:?}");

    let bundle = host
        .bundle(|config| {
            config["process"]["args"] = json!(["fs-operations", "/work"]);
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(CAPABILITIES);
            }
        })
        .with_program("fs-operations");
    fs::create_dir(bundle.rootfs().join("work")).unwrap();
    let contained = host.run(&bundle).output().success();

    let native = String::from_utf8(native.stdout).unwrap();
    assert!(native.lines().count() > 90, "{native}");
    let differences: Vec<_> = native
        .lines()
        .zip(contained.lines())
        .filter(|(native, contained)| native != contained && !REFUSED.contains(contained))
        .collect();
    assert!(
        differences.is_empty(),
        "host and container differ:\n{differences:#?}"
    );
    assert_eq!(native.lines().count(), contained.lines().count());
}
