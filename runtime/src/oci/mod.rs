//! `config.json` of the OCI runtime specification: reading it, checking it, preparing it for the guest.
//!
//! The document is kept as the JSON it came as, so that a property that this program does not know reaches the
//! agent unharmed. [`Spec`] is a typed view of the few fields that the host's side acts upon.

mod bundle;
mod devices;
mod disks;
mod further;
mod guest;
mod id_mapping;
mod pod;
mod process;
mod refuse;
mod shared_memory;
mod spec;
mod texts;
mod validate;
mod vm;
mod vm_annotations;
mod vmm_options;
mod volumes;

pub use bundle::{Bundle, BundleError, parse as parse_document};
pub use disks::{Disk, DiskMount, Disks, disk_folder};
pub use further::{Changes, FurtherProcess, FurtherProcessError, UserChange};
pub use guest::{GuestPaths, drop_host_resources, for_guest};
pub use id_mapping::{IdMappings, IdRange};
pub use pod::{FAMILIES, MEMBER, is_pod, pod_annotations, pod_limits, sandbox_of};
pub use refuse::{changed_limits, is_refused, refusals, refuse_unsupported};
pub use shared_memory::SharedMemory;
pub use spec::{
    BlockIo, ConsoleSize, CpuLimits, Device, DeviceRate, DeviceWeight, Linux, MemoryLimits, Mount, Namespace,
    Process, Resources, Root, Spec,
};
pub use validate::{BindSource, validate};
pub use vm::Vm;
pub use vm_annotations::PREFIX as VM_ANNOTATIONS;
pub use vmm_options::VmmOptions;
pub use volumes::{DATA, Volume, data as volume_data};

/// The version of the runtime specification that is implemented.
pub const OCI_VERSION: &str = "1.3.0";

/// The oldest version that is; every later one with the same first number is read, too.
pub const MIN_OCI_VERSION: &str = "1.0.0";

/// The `config.json` that `bulkhead spec` writes.
pub const DEFAULT_CONFIG: &str = include_str!("default_config.json");

/// What is wrong with one field of `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// The field's path, as in `mounts[2].source`.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod compliance;
#[cfg(test)]
mod tests;
