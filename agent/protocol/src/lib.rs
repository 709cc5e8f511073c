//! What the runtime and the agent say to each other: messages, client and server, generated from
//! `proto/agent.proto`, which is the documentation; [`spec`], what they make of config.json;
//! and [`hook`], which both can run.

pub mod hook;
pub mod spec;

#[allow(
    missing_docs,
    clippy::all,
    clippy::needless_pass_by_value,
    unused_qualifications
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::agent as messages;
pub use generated::agent_ttrpc::{Agent, AgentClient, create_agent};

/// The vsock port of the agent's service; also the host's port that the agent dials when it is ready.
pub const AGENT_PORT: u32 = 1024;
/// The vsock port on which the agent takes stdio streams.
pub const STREAM_PORT: u32 = 1025;
/// The longest name of a stdio stream, in bytes.
pub const MAX_STREAM_NAME: usize = 128;
/// The virtio-fs tag of the sandbox's shared folder.
pub const SHARED_TAG: &str = "bulkhead";
/// Where the guest mounts the sandbox's shared folder.
pub const SHARED_FOLDER: &str = "/run/bulkhead/shared";
/// Where the guest mounts the file systems of disks, below the container's id.
pub const DISK_FOLDER: &str = "/run/bulkhead/disks";
/// Where the guest mounts the memory that containers share.
pub const MEMORY_FOLDER: &str = "/run/bulkhead/memory";
/// Where the guest has its copies of volumes whose content the host replaces, below the name of the container's folder in the
/// shared folder.
pub const VOLUME_FOLDER: &str = "/run/bulkhead/volumes";
/// What the link to a disk's node begins with in the guest. The disk's id follows.
pub const DISK_LINKS: &str = "/dev/disk/by-id/virtio-";
/// What `linux.namespaces[].path` begins with, in the document for the guest, when a container shares a namespace of another
/// one in its sandbox. That container's id follows.
pub const NAMESPACE_OF: &str = "container:";

/// Whether a folder in the sandbox's shared folder is a container's: its name is the container's id, a hyphen and the pid of
/// the container's stand-in. For a moment the guest takes a name for what it was, so a container that comes after another one
/// of its id gets a folder of another name.
pub fn is_folder_of(name: &str, container: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(id, _)| id == container)
}
