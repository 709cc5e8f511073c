//! Copies of mounts that are mounted nowhere yet, and the mount namespaces into which they go.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
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
    /// The mappings' user namespace cannot be made, or the file system cannot be mapped.
    pub fn map_ids(&self, mappings: &IdMappings) -> io::Result<()> {
        map_ids(&self.0, mappings)
    }

    fn change(&self, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
        mount_attributes::set(&self.0, attributes, recursive)
    }

    /// A folder or file below its root, from which no symbolic link and no `..` leads out.
    ///
    /// # Errors
    /// It is not there.
    pub fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Ok(openat2(
            &self.0,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )?)
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

/// Where another process is: its mount namespace, root and working directory.
#[derive(Debug)]
pub struct MountNamespace(Place);

impl MountNamespace {
    /// Of a process; none if it has ended.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn of(process: ProcessIdentity) -> io::Result<Option<Self>> {
        let place = Place::of(&process.pid.to_string());
        // What was opened may be a later process's of that pid, unless the one that is meant still lives.
        match place {
            _ if !process.is_alive() => Ok(None),
            place => place.map(|place| Some(Self(place))),
        }
    }

    /// Moves the calling thread there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn enter(&self) -> io::Result<()> {
        self.0.enter()
    }

    /// Does something there, on the calling thread.
    ///
    /// # Errors
    /// The namespace cannot be entered, or not be left again; else the action's.
    pub fn within<T, E: From<io::Error>>(&self, action: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let here = Place::of("self")?;
        self.0.enter()?;
        let result = action();
        here.enter()?;
        result
    }
}

/// Where a process is among the file systems.
#[derive(Debug)]
struct Place {
    namespace: File,
    root: OwnedFd,
    folder: OwnedFd,
}

impl Place {
    /// Of a process, by its folder's name in /proc.
    fn of(process: &str) -> io::Result<Self> {
        let path = |name| format!("/proc/{process}/{name}");
        let open = |name| rustix::fs::open(path(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            namespace: File::open(path("ns/mnt"))?,
            root: open("root")?,
            folder: open("cwd")?,
        })
    }

    /// Goes there. Entering the namespace alone leads to what is mounted over its root.
    fn enter(&self) -> io::Result<()> {
        // The kernel lets nobody in who shares a working directory, be it with an idle thread (setns(2)).
        unshare(CloneFlags::CLONE_FS)?;
        setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(".")?;
        Ok(rustix::process::fchdir(&self.folder)?)
    }
}
