//! The `config.json` of a pod that containerd 2.x has the shim make: from the little that the request says of it, and from CRI's
//! description of the pod, which is among its options.

use std::{fs, io, path::Path};

use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use protobuf::CodedInputStream;
use serde_json::{Map, Value, json};

use super::error::Error;
use crate::oci::{OCI_VERSION, pod_annotations};

/// CRI's description of a pod.
const CRI: &str = "runtime.v1.PodSandboxConfig";

/// What CRI says of a pod, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    hostname: String,
    cgroup_parent: String,
}

/// A pod's `config.json`.
#[derive(Debug, PartialEq)]
pub struct PodConfig {
    annotations: Map<String, Value>,
    network: String,
    hostname: String,
    cgroups_path: String,
}

impl PodConfig {
    /// Of the pod that a request describes.
    ///
    /// # Errors
    /// CRI's description is none.
    pub fn of(request: &CreateSandboxRequest) -> Result<Self, Error> {
        let described = match request.options.type_url.rsplit('/').next() {
            Some(CRI) => describe(&request.options.value).map_err(|error| Error::Invalid {
                what: "options",
                problem: error.to_string(),
            })?,
            _ => Described::default(),
        };
        let id = &request.sandbox_id;
        let mut annotations: Map<String, Value> = request
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect();
        for (key, value) in pod_annotations(id) {
            annotations.insert(key.to_owned(), value.into());
        }
        Ok(Self {
            annotations,
            network: request.netns_path.clone(),
            hostname: described.hostname,
            cgroups_path: cgroups_path(&described.cgroup_parent, id),
        })
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
        let own = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let namespaces: Vec<Value> = own.into_iter().chain([network]).collect();
        for (key, value) in [
            ("ociVersion", json!(OCI_VERSION)),
            ("root", json!({"path": "rootfs"})),
            ("process", json!({"cwd": "/", "args": ["/pause"]})),
            ("hostname", json!(self.hostname)),
            (
                "linux",
                json!({"namespaces": namespaces, "cgroupsPath": self.cgroups_path}),
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

/// Fields 2 and 8.1 of CRI's description.
fn describe(message: &[u8]) -> protobuf::Result<Described> {
    let mut described = Described::default();
    let mut stream = CodedInputStream::from_bytes(message);
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        match tag {
            HOSTNAME => described.hostname = stream.read_string()?,
            LINUX => {
                let linux = stream.read_bytes()?;
                let mut stream = CodedInputStream::from_bytes(&linux);
                while let Some(tag) = stream.read_raw_tag_or_eof()? {
                    match tag {
                        CGROUP_PARENT => described.cgroup_parent = stream.read_string()?,
                        _ => protobuf::rt::skip_field_for_tag(tag, &mut stream)?,
                    }
                }
            }
            _ => protobuf::rt::skip_field_for_tag(tag, &mut stream)?,
        }
    }
    Ok(described)
}

/// Fields by number and wire type, 2 for what has a length.
const HOSTNAME: u32 = 2 << 3 | 2;
const LINUX: u32 = 8 << 3 | 2;
const CGROUP_PARENT: u32 = 1 << 3 | 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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
    fn a_pods_cgroup_is_a_folder_or_a_slice() {
        assert_eq!(cgroups_path("", "p"), "");
        assert_eq!(cgroups_path("/kubepods/pod1/", "p"), "/kubepods/pod1/p");
        assert_eq!(
            cgroups_path("/kubepods.slice/kubepods-pod1.slice", "p"),
            "kubepods-pod1.slice:cri-containerd:p"
        );
    }

    proptest! {
        #[test]
        fn any_description_is_read_or_refused(message in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = describe(&message);
        }
    }
}
