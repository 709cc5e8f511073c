//! Copies of mounts that are mounted nowhere yet, and the mount namespaces into which they go.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::sched::{CloneFlags, setns};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::{ProcessIdentity, id_mapped::map_ids, mount_attributes};
use crate::oci::IdMappings;

const NO_CHANGE: libc::mount_attr = libc::mount_attr {
    attr_set: 0,
    attr_clr: 0,
    propagation: 0,
    userns_fd: 0,
};

/// A copy of a mount, perhaps with those below it, that is mounted nowhere yet. Dropping it lets go of the copy.
#[derive(Debug)]
pub struct MountTree(OwnedFd);

impl MountTree {
    /// Copies what is mounted at, or below, a folder or file.
    ///
    /// # Errors
    /// There is nothing, or the process may not.
    pub fn copy(source: &Path, recursive: bool) -> io::Result<Self> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = Self(open_tree(CWD, source, flags)?);
        // What the host mounts below goes on to arrive; but that the copy is unmounted is not to unmount the original. The
        // VMM, which serves it, executes nothing and opens no device.
        tree.change(
            &libc::mount_attr {
                attr_set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
                propagation: libc::MS_SLAVE,
                ..NO_CHANGE
            },
            recursive,
        )?;
        Ok(tree)
    }

    /// Makes the topmost mount read-only, or all of them.
    ///
    /// # Errors
    /// `mount_setattr`'s.
    pub fn make_read_only(&self, recursive: bool) -> io::Result<()> {
        mount_attributes::set_read_only(&self.0, recursive)
    }

    /// Shows the owners of its files by these mappings.
    ///
    /// # Errors
    /// See [`map_ids`].
    pub fn map_ids(&self, mappings: &IdMappings) -> io::Result<()> {
        map_ids(&self.0, mappings)
    }

    fn change(&self, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
        mount_attributes::set(&self.0, attributes, recursive)
    }

    /// Mounts it over a folder or file, which is of the calling process's mount namespace.
    ///
    /// # Errors
    /// `move_mount`'s.
    pub fn mount_over(&self, target: BorrowedFd<'_>) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&self.0, c"", target, c"", flags)?)
    }
}

/// The mount namespace of another process.
#[derive(Debug)]
pub struct MountNamespace(File);

impl MountNamespace {
    /// Of a process; none if it has ended.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn of(process: ProcessIdentity) -> io::Result<Option<Self>> {
        let opened = File::open(format!("/proc/{}/ns/mnt", process.pid));
        // What was opened may be a later process's of that pid, unless the one that is meant still lives.
        match opened {
            _ if !process.is_alive() => Ok(None),
            Ok(file) => Ok(Some(Self(file))),
            Err(error) => Err(error),
        }
    }

    /// Does something in the namespace, with its root for root and working directory. The calling process has one thread.
    ///
    /// # Errors
    /// The namespace cannot be entered, or not be left again; else the action's.
    pub fn within<T, E: From<io::Error>>(&self, action: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let place = Place::current()?;
        setns(self.0.as_fd(), CloneFlags::CLONE_NEWNS).map_err(io::Error::from)?;
        let result = action();
        place.back()?;
        result
    }
}

/// Where a process is among the file systems.
struct Place {
    namespace: File,
    root: OwnedFd,
    folder: OwnedFd,
}

impl Place {
    fn current() -> io::Result<Self> {
        let open = |path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            namespace: File::open("/proc/self/ns/mnt")?,
            root: open("/")?,
            folder: open(".")?,
        })
    }

    /// Goes back there. The root need not be that of the namespace.
    fn back(&self) -> io::Result<()> {
        setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(".")?;
        Ok(rustix::process::fchdir(&self.folder)?)
    }
}
