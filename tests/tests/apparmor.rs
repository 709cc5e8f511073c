//! AppArmor profiles of the host's are given to guests, whose kernels enforce them.

use std::process::Command;

use bulkhead_tests::harness::Host;
use serde_json::json;

/// A profile that allows everything but one write.
const PROFILE: &str = "
abi <abi/3.0>,
profile test-profile flags=(attach_disconnected) {
    file,
    capability,
    signal,
    deny /tmp/forbidden w,
}
";

/// A host whose folder of profiles has the one above.
fn host() -> Host {
    let mut host = Host::new();
    let folder = host.directory("profiles");
    let text = host.file("profile", PROFILE);
    let mut parser = Command::new("apparmor_parser");
    parser
        .args([
            "--skip-kernel-load",
            "--kernel-features",
            "/etc/apparmor.d/abi/3.0",
            "--ofile",
        ])
        .arg(folder.join("test-profile"))
        .arg(text);
    let output = parser.output().expect("Debian's apparmor is installed");
    assert!(output.status.success(), "{output:?}");
    host.settings
        .insert("apparmor_profiles".into(), folder.to_str().unwrap().into());
    host
}

const SCRIPT: &str = "cat /proc/self/attr/current
    echo x > /tmp/allowed && echo allowed
    (echo x > /tmp/forbidden) 2>/dev/null || echo denied";

#[test]
fn a_profile_is_enforced() {
    let host = host();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", SCRIPT]);
        config["process"]["apparmorProfile"] = json!("test-profile");
    });
    let output = host.run(&bundle).output().success();
    assert_eq!(output, "test-profile (enforce)\nallowed\ndenied\n");

    // A further process can be confined in a container that is not.
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", format!("{SCRIPT}\ncat")]);
        config["process"]["apparmorProfile"] = json!("unconfined");
    });
    let id = host.new_id();
    let mut running = host.run_as(&bundle, &id).spawn();
    assert_eq!(running.wait_for("allowed\n"), "unconfined\nallowed\n");
    let exec = |profile: &str| {
        let exec = host.bulkhead().args(["exec", "--apparmor", profile, &id]);
        exec.args(["sh", "-c", SCRIPT]).output()
    };
    assert_eq!(
        exec("test-profile").success(),
        "test-profile (enforce)\nallowed\ndenied\n"
    );
    let refused = exec("other").with_code(255);
    assert!(
        refused.stderr().contains("process.apparmorProfile: \"other\""),
        "{refused:?}"
    );
    drop(running.stdin.take());
    assert_eq!(running.wait().success(), "unconfined\nallowed\n");
}

#[test]
fn a_profile_that_is_not_there_is_refused() {
    let host = host();
    for (name, word) in [("other", "apparmor_parser"), ("../test-profile", "not the name")] {
        let bundle = host.bundle(|config| config["process"]["apparmorProfile"] = json!(name));
        let line = host.run(&bundle).output().refusal();
        for word in ["process.apparmorProfile", name, word] {
            assert!(line.contains(word), "{word:?} is not in: {line}");
        }
    }
}

#[test]
fn what_is_no_profile_is_refused_by_the_guest() {
    let host = host();
    host.file("profiles/text", PROFILE);
    let bundle = host.bundle(|config| config["process"]["apparmorProfile"] = json!("text"));
    let line = host.run(&bundle).output().refusal();
    assert!(line.contains("load AppArmor profile \"text\""), "{line}");
}
