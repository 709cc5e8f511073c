//! The `config.json` of a pod that containerd 2.x has the shim make: from the little that the request says of it, and from CRI's
//! description of the pod, which is among its options.

use std::{fs, io, path::Path};

use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use serde_json::{Map, Value, json};

use super::{error::Error, pod_description::Described};
use crate::oci::{Namespace, OCI_VERSION, VM_ANNOTATIONS, pod_annotations, pod_limits};

/// CRI's description of a pod.
const CRI: &str = "runtime.v1.PodSandboxConfig";

/// The kinds of a pod's namespaces.
const OWN: [&str; 5] = ["pid", "ipc", "uts", "mount", Namespace::NETWORK];

/// A pod's `config.json`.
#[derive(Debug, PartialEq)]
pub struct PodConfig {
    annotations: Map<String, Value>,
    network: String,
    described: Described,
    cgroups_path: String,
}

impl PodConfig {
    /// Of the pod that a request describes.
    ///
    /// # Errors
    /// CRI's description is none.
    pub fn of(request: &CreateSandboxRequest) -> Result<Self, Error> {
        let described = match request.options.type_url.rsplit('/').next() {
            Some(CRI) => Described::read(&request.options.value).map_err(|error| Error::Invalid {
                what: "options",
                problem: error.to_string(),
            })?,
            _ => Described::default(),
        };
        Ok(Self::new(request, described))
    }

    fn new(request: &CreateSandboxRequest, described: Described) -> Self {
        let id = &request.sandbox_id;
        let limits = pod_limits(described.memory, described.cpu_quota, described.cpu_period);
        let annotations = described
            .annotations
            .iter()
            .filter(|(key, _)| key.starts_with(VM_ANNOTATIONS))
            .chain(&request.annotations)
            .map(|(key, value)| (key.clone(), value.clone()))
            .chain(limits.map(|(key, value)| (key.to_owned(), value.to_string())))
            .chain(pod_annotations(id).map(|(key, value)| (key.to_owned(), value.to_owned())))
            .map(|(key, value)| (key, value.into()))
            .collect();
        Self {
            annotations,
            network: request.netns_path.clone(),
            cgroups_path: cgroups_path(&described.cgroup_parent, id),
            described,
        }
    }

    /// Writes it into the bundle. What containerd has put there stays, but for what says that it is a pod.
    ///
    /// # Errors
    /// What is there is no JSON object, or the file system said no.
    pub fn complete(self, bundle: &Path) -> Result<(), Error> {
        let file = bundle.join("config.json");
        let mut document = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| Error::Invalid {
                what: "config.json",
                problem: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(Error::io("read config.json")(error)),
        };
        self.fill(&mut document)?;
        fs::write(&file, document.to_string()).map_err(Error::io("write config.json"))
    }

    fn fill(self, document: &mut Value) -> Result<(), Error> {
        let members = document.as_object_mut().ok_or_else(|| Error::Invalid {
            what: "config.json",
            problem: "is no JSON object".to_owned(),
        })?;
        let annotations = members
            .entry("annotations")
            .or_insert_with(|| json!({}))
            .as_object_mut();
        if let Some(annotations) = annotations {
            annotations.extend(self.annotations);
        }
        let mut network = json!({"type": "network"});
        if !self.network.is_empty() {
            network["path"] = self.network.into();
        }
        // What is left out is the host's, and refused with the document.
        let namespaces: Vec<Value> = OWN
            .into_iter()
            .filter(|kind| !self.described.of_the_host.contains(kind))
            .map(|kind| match kind {
                Namespace::NETWORK => network.clone(),
                kind => json!({"type": kind}),
            })
            .collect();
        for (key, value) in [
            ("ociVersion", json!(OCI_VERSION)),
            ("root", json!({"path": "rootfs"})),
            ("process", json!({"cwd": "/", "args": ["/pause"]})),
            ("hostname", json!(self.described.hostname)),
            (
                "linux",
                json!({
                    "namespaces": namespaces,
                    "cgroupsPath": self.cgroups_path,
                    "sysctl": self.described.sysctls,
                }),
            ),
        ] {
            if value != json!("") {
                members.entry(key).or_insert(value);
            }
        }
        Ok(())
    }
}

/// Where CRI puts the cgroups of a pod's containers: beside each other in the pod's, or in its slice.
fn cgroups_path(parent: &str, id: &str) -> String {
    let name = parent.rsplit('/').next().unwrap_or_default();
    match parent {
        "" => String::new(),
        _ if name.ends_with(".slice") => format!("{name}:cri-containerd:{id}"),
        _ => format!("{}/{id}", parent.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use protobuf::{MessageField, well_known_types::any::Any};

    use super::*;

    /// A description with the host name `web` and the cgroup `/pods/p1`, among fields that do not matter.
    const DESCRIPTION: &[u8] = b"\x0a\x03\x0a\x01n\x12\x03web\x42\x0c\x0a\x08/pods/p1\x12\x00";

    fn config(request: &CreateSandboxRequest, mut document: Value) -> Value {
        let config = PodConfig::of(request).expect("valid");
        config.fill(&mut document).expect("an object");
        document
    }

    #[test]
    fn a_pod_is_made_of_what_is_said_of_it() {
        let request = CreateSandboxRequest {
            sandbox_id: "p".to_owned(),
            netns_path: "/run/netns/n".to_owned(),
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            options: MessageField::some(Any {
                type_url: CRI.to_owned(),
                value: DESCRIPTION.to_vec(),
                ..Any::default()
            }),
            ..CreateSandboxRequest::default()
        };
        let document = config(&request, json!({}));
        assert_eq!(document["hostname"], "web");
        assert_eq!(document["linux"]["cgroupsPath"], "/pods/p1/p");
        let network = json!({"type": "network", "path": "/run/netns/n"});
        assert_eq!(document["linux"]["namespaces"][4], network);
        let annotations = json!({
            "k": "v",
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "p",
        });
        assert_eq!(document["annotations"], annotations);

        let document = config(
            &CreateSandboxRequest::default(),
            json!({"hostname": "given", "x": 1}),
        );
        assert_eq!(
            (&document["hostname"], &document["x"]),
            (&json!("given"), &json!(1))
        );
        assert_eq!(document["linux"]["namespaces"][4], json!({"type": "network"}));
    }

    #[test]
    fn limits_settings_machine_and_namespaces_are_those_described() {
        let described = Described {
            annotations: [("dev.bulkhead.vm.hwConfig.vcpus", "2"), ("other", "x")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            sysctls: [("kernel.msgmax".to_owned(), "9".to_owned())].into(),
            of_the_host: vec!["network", "ipc"],
            memory: 4096,
            ..Described::default()
        };
        let mut document = json!({});
        let config = PodConfig::new(&CreateSandboxRequest::default(), described);
        config.fill(&mut document).expect("an object");
        let kinds = [
            json!({"type": "pid"}),
            json!({"type": "uts"}),
            json!({"type": "mount"}),
        ];
        assert_eq!(document["linux"]["namespaces"], json!(kinds));
        assert_eq!(document["linux"]["sysctl"], json!({"kernel.msgmax": "9"}));
        let annotations = json!({
            "dev.bulkhead.vm.hwConfig.vcpus": "2",
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "",
            "io.kubernetes.cri.sandbox-memory": "4096",
        });
        assert_eq!(document["annotations"], annotations);
    }

    #[test]
    fn a_pods_cgroup_is_a_folder_or_a_slice() {
        assert_eq!(cgroups_path("", "p"), "");
        assert_eq!(cgroups_path("/kubepods/pod1/", "p"), "/kubepods/pod1/p");
        assert_eq!(
            cgroups_path("/kubepods.slice/kubepods-pod1.slice", "p"),
            "kubepods-pod1.slice:cri-containerd:p"
        );
    }
}
