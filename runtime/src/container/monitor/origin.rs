//! Where a monitor comes from: the namespaces of the process that started it, in which its hooks are run.

use std::{fs::File, io, os::fd::AsFd};

use nix::sched::{CloneFlags, setns};

use crate::sandbox::{MountNamespace, ProcessIdentity};

/// The namespaces that a monitor leaves.
pub struct Origin {
    network: File,
    files: MountNamespace,
}

impl Origin {
    /// Those in which the calling process still is.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn of_this_process() -> io::Result<Self> {
        let files = MountNamespace::of(ProcessIdentity::current()?)?;
        Ok(Self {
            network: File::open("/proc/self/ns/net")?,
            files: files.ok_or_else(|| io::Error::from(rustix::io::Errno::SRCH))?,
        })
    }

    /// Moves the calling process, which has one thread, back there.
    ///
    /// # Errors
    /// The operating system's.
    pub fn enter(&self) -> io::Result<()> {
        setns(self.network.as_fd(), CloneFlags::CLONE_NEWNET)?;
        self.files.enter()
    }
}
