//! Taking over the descriptors that the configuration names.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A descriptor cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// It is one of the standard streams, or negative.
    #[error("`{field}` names descriptor {fd}; inherited descriptors start at 3")]
    Reserved {
        /// Its place in the configuration.
        field: &'static str,
        /// The number.
        fd: RawFd,
    },
    /// It is named twice.
    #[error("`{field}` names descriptor {fd}, which another field names too")]
    Twice {
        /// Its place in the configuration.
        field: &'static str,
        /// The number.
        fd: RawFd,
    },
    /// It was not inherited.
    #[error("`{field}` names descriptor {fd}, which is not open")]
    NotOpen {
        /// Its place in the configuration.
        field: &'static str,
        /// The number.
        fd: RawFd,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// Hands out each inherited descriptor once.
#[derive(Default)]
pub struct Inherited(BTreeSet<RawFd>);

impl Inherited {
    /// Takes over `fd`, which the configuration's `field` names.
    pub fn take(&mut self, field: &'static str, fd: RawFd) -> Result<OwnedFd, InheritedError> {
        if fd <= libc::STDERR_FILENO {
            return Err(InheritedError::Reserved { field, fd });
        }
        if !self.0.insert(fd) {
            return Err(InheritedError::Twice { field, fd });
        }
        // SAFETY: the call has no memory effects.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(InheritedError::NotOpen {
                field,
                fd,
                source: io::Error::last_os_error(),
            });
        }
        // SAFETY: it is open, and this set hands out no number twice; the process opens its own descriptors only
        // through types that own them.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Like [`Inherited::take`], for a field that may be absent.
    pub fn take_optional(
        &mut self,
        field: &'static str,
        fd: Option<RawFd>,
    ) -> Result<Option<OwnedFd>, InheritedError> {
        fd.map(|fd| self.take(field, fd)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn each_descriptor_is_taken_once() {
        let (reader, _writer) = io::pipe().unwrap();
        let fd = OwnedFd::from(reader).into_raw_fd();
        let mut inherited = Inherited::default();
        let _owned = inherited.take("kvm", fd).unwrap();
        let error = inherited.take("control", fd).unwrap_err();
        assert!(error.to_string().contains("`control`") && matches!(error, InheritedError::Twice { .. }));
    }

    #[test]
    fn what_cannot_have_been_inherited_is_refused() {
        let mut inherited = Inherited::default();
        for fd in [-1, 0, 2] {
            assert!(matches!(
                inherited.take("kvm", fd),
                Err(InheritedError::Reserved { .. })
            ));
        }
        assert!(matches!(
            inherited.take("kvm", 1 << 20),
            Err(InheritedError::NotOpen { .. })
        ));
        assert!(inherited.take_optional("report", None).unwrap().is_none());
    }
}
