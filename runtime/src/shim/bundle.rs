//! What the shim wants to know of a bundle's `config.json`.

use std::{collections::BTreeMap, fs::File, io, path::Path};

use serde::Deserialize;

use crate::{
    oci::{MEMBER, is_pod, sandbox_of},
    sandbox::Driver,
};

/// By which annotation containers that are in no pod are served by one shim.
const GROUP: &str = "io.containerd.runc.v2.group";

/// The longest `config.json` in bytes.
const MAX_LENGTH: u64 = 16 << 20;

/// The part of `config.json` that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BundleConfig {
    annotations: BTreeMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    cgroups_path: String,
}

impl BundleConfig {
    /// Reads it.
    /// Nothing is said where there is none: a sandbox that the shim
    /// is to make itself has none yet.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON.
    pub fn load(bundle: &Path) -> io::Result<Self> {
        let file = match File::open(bundle.join("config.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            file => file?,
        };
        Ok(serde_json::from_reader(io::Read::take(file, MAX_LENGTH))?)
    }

    /// The sandbox of another container that this one is to join.
    pub fn joins(&self) -> Option<&str> {
        sandbox_of(&self.annotations, Some(MEMBER)).map(|(_, sandbox)| sandbox)
    }

    /// The name of the group of containers that one shim serves.
    pub fn group(&self) -> Option<&str> {
        let group = self.annotations.get(GROUP).map(String::as_str);
        group.or_else(|| sandbox_of(&self.annotations, None).map(|(_, sandbox)| sandbox))
    }

    /// Whether the container only holds a sandbox for others.
    pub fn is_pod(&self) -> bool {
        is_pod(&self.annotations)
    }

    /// Who makes the cgroup: CRI names a scope of systemd by three words where the pod's cgroup is a slice.
    pub fn driver(&self) -> Driver {
        let mut words = self.linux.cgroups_path.split(':');
        let is_slice = words.next().is_some_and(|slice| slice.ends_with(".slice"));
        if is_slice && words.count() == 2 {
            Driver::Systemd
        } else {
            Driver::Cgroupfs
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(document: serde_json::Value) -> BundleConfig {
        serde_json::from_value(document).expect("valid")
    }

    #[test]
    fn annotations_say_which_shim_serves() {
        let member = config(json!({"annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": "s1",
        }}));
        assert_eq!((member.joins(), member.group()), (Some("s1"), Some("s1")));
        let sandbox = config(json!({"annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "s1",
        }}));
        assert_eq!((sandbox.joins(), sandbox.group()), (None, Some("s1")));
        assert!(sandbox.is_pod() && !member.is_pod());
        let alone = config(json!({}));
        assert_eq!((alone.joins(), alone.group()), (None, None));
    }

    #[test]
    fn a_scope_in_a_slice_is_systemds() {
        let driver = |path: &str| config(json!({"linux": {"cgroupsPath": path}})).driver();
        assert_eq!(driver("kubepods-pod1.slice:cri-containerd:c1"), Driver::Systemd);
        for path in ["", "/kubepods/pod1/c1", "a:b:c", "/a.slice/c1", "a.slice:b"] {
            assert_eq!(driver(path), Driver::Cgroupfs, "{path}");
        }
    }
}
