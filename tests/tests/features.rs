//! `bulkhead features` says what is true.

use bulkhead_tests::harness::Host;
use serde_json::{Value, json};

fn features(host: &Host) -> Value {
    let text = host.bulkhead().arg("features").output().success();
    serde_json::from_str(&text).expect("JSON")
}

fn words<'a>(features: &'a Value, pointer: &str) -> Vec<&'a str> {
    let list = features
        .pointer(pointer)
        .and_then(Value::as_array)
        .expect(pointer);
    list.iter().filter_map(Value::as_str).collect()
}

#[test]
fn both_ends_of_the_range_of_versions_are_accepted() {
    let host = Host::new();
    let features = features(&host);
    for key in ["ociVersionMin", "ociVersionMax"] {
        let bundle = host.bundle(|config| {
            config["ociVersion"] = features[key].clone();
            config["process"]["args"] = json!(["echo", "runs"]);
        });
        assert_eq!(host.run(&bundle).output().success(), "runs\n", "{key}");
    }
}

/// All at once, in one container: what is not known is refused.
#[test]
fn what_is_listed_is_accepted() {
    let host = Host::new();
    let features = features(&host);
    assert_eq!(
        words(&features, "/hooks"),
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop"
        ]
    );
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["grep", "CapBnd", "/proc/self/status"]);
        config["process"]["capabilities"] = json!({"bounding": words(&features, "/linux/capabilities")});
        let namespaces: Vec<Value> = words(&features, "/linux/namespaces")
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["linux"]["namespaces"] = json!(namespaces);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
        let rules: Vec<Value> = words(&features, "/linux/seccomp/actions")
            .iter()
            .zip([
                "kexec_load",
                "bpf",
                "acct",
                "swapon",
                "swapoff",
                "nfsservctl",
                "quotactl",
                "reboot",
            ])
            .map(|(action, call)| json!({"names": [call], "action": action}))
            .collect();
        let mut rules = rules;
        rules.extend(
            words(&features, "/linux/seccomp/operators")
                .iter()
                .map(|operator| {
                    json!({
                        "names": ["settimeofday"], "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": operator}],
                    })
                }),
        );
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "flags": words(&features, "/linux/seccomp/supportedFlags"),
            "syscalls": rules,
        });
    });
    let output = host.run(&bundle).output().success();
    assert_eq!(output, "CapBnd:\t000001ffffffffff\n");
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert_eq!(features["linux"]["intelRdt"]["enabled"], false);
}
