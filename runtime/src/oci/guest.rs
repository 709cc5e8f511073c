//! The document as the agent gets it: the host's paths replaced by the guest's, and without what is kept on the host.

use std::fmt::Display;

use bulkhead_agent_protocol::{NAMESPACE_OF, SHARED_FOLDER, VOLUME_FOLDER};
use serde_json::Value;

use super::Namespace;
use crate::sandbox::Id;

/// Where a container's files are, below the sandbox's shared folder on the host and in the guest alike.
#[derive(Debug, Clone, Copy)]
pub struct GuestPaths<'a> {
    folder: &'a str,
}

impl<'a> GuestPaths<'a> {
    /// The name of the root file system in the container's folder.
    pub const ROOTFS: &'static str = "rootfs";
    /// The name of the folder that has the sources of bind mounts, in the container's folder.
    pub const MOUNTS: &'static str = "mounts";
    /// The name of the folder that has the programs of createContainer hooks, in the container's folder.
    pub const HOOKS: &'static str = "hooks";

    /// Of the container whose folder in the shared folder has that name.
    pub fn new(folder: &'a str) -> Self {
        Self { folder }
    }

    /// The root file system, relative to the shared folder.
    pub fn rootfs(self) -> String {
        format!("{}/{}", self.folder, Self::ROOTFS)
    }

    /// The source of the bind mount at that place in `mounts`, absolute in the guest.
    pub fn mount_in_guest(self, index: usize) -> String {
        format!("{SHARED_FOLDER}/{}", self.mount(index))
    }

    /// The source of the bind mount at that place in `mounts`, relative to the shared folder.
    pub fn mount(self, index: usize) -> String {
        format!("{}/{}/{index}", self.folder, Self::MOUNTS)
    }

    /// The guest's copy of the volume at that place in `mounts`, absolute in the guest.
    pub fn volume_in_guest(self, index: usize) -> String {
        format!("{VOLUME_FOLDER}/{}/{index}", self.folder)
    }

    /// The program of the createContainer hook at that place in the list, relative to the shared folder.
    pub fn hook(self, index: usize) -> String {
        format!("{}/{}/{index}", self.folder, Self::HOOKS)
    }
}

/// What names processors, memory nodes and block devices by the host's numbers: the cgroup on the host limits them, and in
/// the guest they would mean others. By their places in `linux.resources`.
const KEPT_ON_THE_HOST: [(&str, &str); 3] = [("/cpu", "cpus"), ("/cpu", "mems"), ("", "blockIO")];

/// Takes those of `linux.resources` out that are kept on the host.
pub fn drop_host_resources(resources: &mut Value) {
    for (parent, name) in KEPT_ON_THE_HOST {
        if let Some(members) = resources.pointer_mut(parent).and_then(Value::as_object_mut) {
            members.remove(name);
        }
    }
}

/// Rewrites `root.path`, the sources of mounts by their place in `mounts`, and the programs of createContainer hooks to paths in the guest, and the
/// paths of namespaces: `shares` are those of other containers, by their place and the container. What is the host's is
/// dropped: the path of the network namespace, as the guest's own network is what is joined to it, the hooks that are run on
/// the host, and the resources that it keeps.
pub fn for_guest(
    mut document: Value,
    sources: Vec<(usize, String)>,
    shares: &[(usize, Id)],
    paths: GuestPaths<'_>,
) -> Value {
    if let Some(path) = document.pointer_mut("/root/path") {
        *path = in_guest(paths.rootfs());
    }
    for (index, source) in sources {
        if let Some(mount) = document
            .pointer_mut(&format!("/mounts/{index}"))
            .and_then(Value::as_object_mut)
        {
            mount.insert("source".to_owned(), source.into());
        }
    }
    if let Some(resources) = document.pointer_mut("/linux/resources") {
        drop_host_resources(resources);
    }
    for (index, container) in shares {
        if let Some(path) = document.pointer_mut(&format!("/linux/namespaces/{index}/path")) {
            *path = Value::String(format!("{NAMESPACE_OF}{container}"));
        }
    }
    let namespaces = document
        .pointer_mut("/linux/namespaces")
        .and_then(Value::as_array_mut);
    for namespace in namespaces.into_iter().flatten() {
        if let Some(namespace) = namespace.as_object_mut()
            && namespace
                .get("type")
                .is_some_and(|kind| kind == Namespace::NETWORK)
        {
            namespace.remove("path");
        }
    }
    if let Some(hooks) = document.get_mut("hooks").and_then(Value::as_object_mut) {
        hooks.retain(|list, _| list == "createContainer" || list == "startContainer");
        let programs = hooks.get_mut("createContainer").and_then(Value::as_array_mut);
        for (index, hook) in programs.into_iter().flatten().enumerate() {
            if let Some(hook) = hook.as_object_mut() {
                hook.insert("path".to_owned(), in_guest(paths.hook(index)));
            }
        }
    }
    document
}

fn in_guest(relative: impl Display) -> Value {
    Value::String(format!("{SHARED_FOLDER}/{relative}"))
}
