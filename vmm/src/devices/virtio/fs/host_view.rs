//! What the device needs of the host's system before the VMM enters its jail.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::{CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits};

/// A folder with this process's descriptors that can be used when the process does not see `/proc` any more.
pub struct HostView {
    descriptors: OwnedFd,
}

/// The VMM could not be prepared for serving files.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// No copy of the folder could be made.
    #[error("cannot copy the mount of /proc/self/fd: {0}; it takes /proc and CAP_SYS_ADMIN")]
    Descriptors(#[source] io::Error),
    /// The process may not keep its capabilities.
    #[error("cannot keep capabilities across a change of user: {0}; it takes CAP_SETPCAP")]
    SecureBits(#[source] io::Error),
}

impl HostView {
    /// Takes what is needed from outside the jail, and has this thread and those that it starts keep their
    /// capabilities when they change their user. To be called once, before the root is changed and capabilities are
    /// dropped, in the process that will serve.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare() -> Result<Self, PrepareError> {
        // A copy of the mount that has this folder as its root: `..` stays in it, and the rest of /proc is not there.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let descriptors = open_tree(CWD, c"/proc/self/fd", flags)
            .map_err(|error| PrepareError::Descriptors(error.into()))?;
        capabilities_secure_bits()
            .and_then(|bits| set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP))
            .map_err(|error| PrepareError::SecureBits(error.into()))?;
        Ok(HostView { descriptors })
    }

    /// The folder with this process's descriptors.
    pub(super) fn into_descriptors(self) -> OwnedFd {
        self.descriptors
    }
}
