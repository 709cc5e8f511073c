//! How the VMM says how it ended.

use serde::{Deserialize, Serialize};

/// The last word of a VMM, written as one JSON document to the report descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What happened.
    pub outcome: Outcome,
    /// The last lines of the guest's console, oldest first.
    pub console: Vec<String>,
}

/// Why the VMM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// The guest switched itself off, or asked for a reset: a microVM has nothing to come back to.
    PowerOff,
    /// The guest's kernel panicked.
    Panic {
        /// The kernel's own words, where the console has them.
        message: String,
    },
    /// A virtual processor met a fault that it could not deliver.
    TripleFault,
    /// The `stop` request.
    Stopped,
    /// The VMM itself failed.
    Failed {
        /// What it was doing.
        stage: Stage,
        /// What went wrong.
        message: String,
    },
}

/// What the VMM was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading and checking the configuration.
    Configuration,
    /// Giving up what it does not need.
    Jail,
    /// Asking KVM for a virtual machine.
    Kvm,
    /// Making the guest's memory.
    Memory,
    /// Loading the kernel, the initramfs and the boot data.
    Kernel,
    /// Making the devices.
    Devices,
    /// Making the virtual processors.
    Vcpus,
    /// Running the guest.
    Run,
}
