//! `bulkhead features`

use std::process::ExitCode;

use bulkhead_agent_protocol::{
    hook::Hooks,
    spec::{
        MOUNT_OPTIONS, NAMESPACES, SECCOMP_ACTIONS, SECCOMP_ARCHITECTURES, SECCOMP_FLAGS, SECCOMP_OPERATORS,
    },
};
use clap::Args;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

use super::{Status, output::print};
use crate::oci::{MIN_OCI_VERSION, OCI_VERSION, VM_ANNOTATIONS, is_refused};

/// Print what this runtime can do as JSON
#[derive(Debug, Args)]
pub struct Features {}

impl Features {
    pub fn execute(self) -> Status {
        print(&format!("{:#}\n", describe()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The features document of the runtime specification.
fn describe() -> Value {
    let capabilities: Vec<String> = CapabilitySet::all()
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    json!({
        "ociVersionMin": MIN_OCI_VERSION,
        "ociVersionMax": OCI_VERSION,
        "hooks": Hooks::NAMES,
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities,
            "cgroup": {
                "v1": false,
                "v2": true,
                "systemd": true,
                "systemdUser": false,
                "rdma": !is_refused("linux.resources.rdma"),
            },
            "seccomp": {
                "enabled": !is_refused("linux.seccomp"),
                "actions": SECCOMP_ACTIONS,
                "operators": SECCOMP_OPERATORS,
                "archs": SECCOMP_ARCHITECTURES,
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS,
            },
            "apparmor": {"enabled": !is_refused("process.apparmorProfile")},
            "selinux": {"enabled": !is_refused("process.selinuxLabel")},
            "intelRdt": {
                "enabled": !is_refused("linux.intelRdt"),
                "schemata": !is_refused("linux.intelRdt.schemata"),
                "monitoring": !is_refused("linux.intelRdt.enableMonitoring"),
            },
            "mountExtensions": {"idmap": {"enabled": !is_refused("mounts[].uidMappings")}},
            "netDevices": {"enabled": !is_refused("linux.netDevices")},
        },
        "annotations": {
            "dev.bulkhead.version": env!("CARGO_PKG_VERSION"),
        },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

/// The annotations of a config.json that change what the container shares with others, and in which machine it is: who lets
/// others write annotations should know them. What ends with a dot is what names begin with.
const UNSAFE_ANNOTATIONS: &[&str] = &[
    VM_ANNOTATIONS,
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.cri-o.SandboxID",
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri.sandbox-id",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_callers_look_for() {
        let features = describe();
        let has = |pointer: &str, word: &str| {
            let list = features
                .pointer(pointer)
                .and_then(Value::as_array)
                .expect(pointer);
            list.iter().any(|item| item == word)
        };
        assert!(has("/hooks", "startContainer"));
        assert!(has("/mountOptions", "rro"));
        assert!(has("/linux/namespaces", "time"));
        assert!(has("/linux/capabilities", "CAP_CHECKPOINT_RESTORE"));
        assert!(!has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY"));
        assert_eq!(
            features["linux"]["capabilities"].as_array().map(Vec::len),
            Some(41)
        );
        assert_eq!(features["linux"]["selinux"]["enabled"], false);
        assert_eq!(features["linux"]["apparmor"]["enabled"], true);
        assert_eq!(features["linux"]["netDevices"]["enabled"], false);
    }
}
