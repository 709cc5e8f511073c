//! The folder that a sandbox shares with its guest.
//!
//! It is a small file system in memory that exists in the monitor's mount namespace alone; what the guest is to see
//! is bind-mounted into it. When the monitor has gone, so has the namespace, and with it every mount.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::{StateError, StateFolder};

/// The guest sees this file system, and is not to fill the host's memory through it: it has the mount points only.
const LIMITS: &std::ffi::CStr = c"mode=0755,size=1m,nr_inodes=8k";

/// Why a sandbox's files cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The folder below the state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The mount namespace of the sandbox.
    #[error("mount namespace of the sandbox: {0}")]
    Namespace(#[from] io::Error),
    /// A system call failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

/// The error of a step that failed on a path.
pub fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> StorageError {
    move |source| StorageError::Io {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The shared folder of a sandbox.
#[derive(Debug)]
pub struct SharedFolder {
    path: PathBuf,
    handle: File,
}

impl SharedFolder {
    /// Makes the folder in a mount namespace that the calling process gets for itself ([`leave_mount_namespace`]).
    ///
    /// # Errors
    /// The first step that failed.
    pub fn create(state: &StateFolder) -> Result<Self, StorageError> {
        let path = state.make(StateFolder::SHARED)?;
        leave_mount_namespace()?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("bulkhead", &path, "tmpfs", flags, LIMITS).map_err(failed("mount", &path))?;
        // The VMM's namespace, a copy of this one, gets what is mounted here later.
        rustix::mount::mount_change(&path, MountPropagationFlags::SHARED).map_err(failed("share", &path))?;
        let handle = File::open(&path).map_err(failed("open", &path))?;
        Ok(Self { path, handle })
    }

    /// Its path, in this mount namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Takes the folder away, so that its mount point can be removed while the namespace is still in use.
    ///
    /// # Errors
    /// `umount2`'s.
    pub fn unmount(path: &Path) -> Result<(), StorageError> {
        match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
            Err(e) => Err(failed("unmount", path)(e)),
        }
    }
}

/// Gives the calling process, which has one thread, its own mount namespace. Mounts of the host go on arriving there, none
/// leaves it.
///
/// # Errors
/// The process may not.
pub fn leave_mount_namespace() -> Result<(), StorageError> {
    let root = Path::new("/");
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace with", root))?;
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(root, downstream).map_err(failed("detach mounts of", root))
}
