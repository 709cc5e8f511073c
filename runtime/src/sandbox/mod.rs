//! A sandbox: a microVM and what hangs on it on the host.

mod agent;
mod boot_files;
mod cgroup;
mod end;
mod id;
mod process;
mod size;
mod start;
mod state;
mod storage;
mod uplink;
mod vmm;
mod vsock;

pub use agent::{Agent, AgentError};
pub use boot_files::{BootFileError, open_initramfs, open_kernel};
pub use cgroup::{Cgroup, CgroupError, mount_point as cgroup_mount_point};
pub use end::VmmEnd;
pub use id::{Id, IdError};
pub use process::{Child, Ended, Fork, ProcessIdentity, fork};
pub use size::Size;
pub use start::{Sandbox, StartError, Starting};
pub use state::{NewState, State, StateError, StateFolder, Status};
pub use storage::{SharedFolder, StorageError};
pub use uplink::Uplink;
pub use vmm::{Vmm, VmmError};
pub use vsock::GuestSocket;
