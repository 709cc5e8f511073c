//! Where integration tests run.

use std::fmt;

use bulkhead_vmm::probe::{Probe, probe};

/// Where integration tests run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Right here: the host's KVM runs stock guests.
    Host,
    /// In the emulated host.
    L1 {
        /// Why not here.
        why: String,
    },
}

impl Place {
    /// Decides for this machine.
    #[must_use]
    pub fn decide() -> Self {
        match probe() {
            Probe::Usable { .. } => Self::Host,
            Probe::NoKvm { error, .. } => Self::L1 {
                why: format!("this machine has no KVM: {error}"),
            },
            Probe::CannotRunStockGuests { detail } => Self::L1 {
                why: format!("this machine's KVM cannot run stock guests: {detail}"),
            },
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("on this machine"),
            Self::L1 { why } => write!(f, "in an emulated host ({why})"),
        }
    }
}
