//! What the shim may do by itself. It makes mounts, and opens the streams that containerd names, whoever they belong to; all
//! else is done by the programs that it executes, which are root's and get what root has.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// What is kept.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_OVERRIDE);

/// Gives up every other privilege of the calling process, which has one thread.
///
/// # Errors
/// It does not have what is to be kept.
pub fn drop_most() -> io::Result<()> {
    let sets = CapabilitySets {
        effective: KEPT,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}
