//! What containers are run from.

use serde_json::{Value, json};

use crate::harness::default_config;

/// The root file system of containers that need none of their own: busybox.
pub const ROOT: &str = "/bundle/rootfs";

/// A bundle in L1. Its root file system is not in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// Where it is.
    pub folder: String,
    /// Its config.json.
    pub config: Value,
}

impl Bundle {
    /// One that runs this.
    pub fn new(folder: impl Into<String>, args: &[&str]) -> Self {
        let mut config = default_config();
        // The newest that Debian 12's crun knows.
        config["ociVersion"] = json!("1.0.2");
        config["process"]["args"] = json!(args);
        config["annotations"] = json!({});
        config["root"]["path"] = json!(ROOT);
        let folder = folder.into();
        Self { folder, config }
    }

    /// With annotations.
    pub fn annotations(mut self, annotations: Value) -> Self {
        self.config["annotations"] = annotations;
        self
    }

    /// With a root file system of its own.
    pub fn root(mut self, path: &str) -> Self {
        self.config["root"]["path"] = json!(path);
        self
    }

    /// With a folder of the host's at the same path.
    pub fn bind(mut self, path: &str) -> Self {
        let mount = json!({"destination": path, "type": "bind", "source": path, "options": ["bind", "rw"]});
        push(&mut self.config["mounts"], mount);
        self
    }

    /// In a network namespace of the host's.
    pub fn network(mut self, path: &str) -> Self {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut();
        for namespace in namespaces.into_iter().flatten() {
            if namespace["type"] == "network" {
                namespace["path"] = json!(path);
            }
        }
        self
    }

    /// In a machine of so many virtual processors.
    pub fn vcpus(mut self, vcpus: u8) -> Self {
        self.config["vm"] = json!({"hwConfig": {"vcpus": vcpus}});
        self
    }
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().expect("mounts are a list").push(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_what_was_said() {
        let config = Bundle::new("/bundle/x", &["true"])
            .bind("/data")
            .network("/run/netns/bench")
            .vcpus(2)
            .config;
        assert_eq!(config["process"]["args"], json!(["true"]));
        let mounts = config["mounts"].as_array().expect("a list");
        assert_eq!(mounts.last().expect("one")["source"], "/data");
        let namespaces = config["linux"]["namespaces"].as_array().expect("a list");
        let with_path: Vec<_> = namespaces
            .iter()
            .filter(|namespace| namespace.get("path").is_some())
            .collect();
        assert_eq!(
            with_path,
            [&json!({"type": "network", "path": "/run/netns/bench"})]
        );
        assert_eq!(config["vm"]["hwConfig"]["vcpus"], 2);
    }
}
