//! A sandbox: a microVM and what hangs on it on the host.

mod agent;
mod boot_files;
mod cgroup;
mod end;
mod host_files;
mod id;
mod image_files;
mod machine;
mod network;
mod process;
mod size;
mod start;
mod state;
mod storage;
mod uplink;
mod vmm;
mod vmm_control;
mod vsock;

pub use agent::{Agent, AgentError};
pub use boot_files::{BootFileError, open_initramfs, open_kernel};
pub use cgroup::{Cgroup, CgroupError, mount_point as cgroup_mount_point};
pub use end::VmmEnd;
pub use host_files::{HostFile, HostFileError};
pub use id::{Id, IdError};
pub use image_files::ImageFileError;
pub use machine::{Machine, MachineError};
pub use network::{Network, NetworkError, remove_redirects};
pub use process::{Child, Ended, Fork, ProcessIdentity, fork};
pub use size::{Size, SizeError};
pub use start::{Sandbox, StartError, Starting};
pub use state::{NewState, State, StateError, StateFolder, Status};
pub use storage::{SharedFolder, StorageError};
pub use uplink::Uplink;
pub use vmm::{Vmm, VmmError};
pub use vmm_control::VmmControl;
pub use vsock::GuestSocket;
