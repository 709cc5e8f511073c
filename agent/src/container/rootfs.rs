//! Makes a container's root file system and enters it.
//!
//! The guest's own `/` comes from an initramfs, which pivot_root(2) cannot leave; the agent has put a clone of it on
//! top at boot (see [`crate::boot`]), so that the ordinary way works here.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount,
        fsopen, open_tree, unmount,
    },
    process::{chdir, fchdir, pivot_root, umask},
};

use super::{
    Plan, devices,
    mount_options::root_propagation,
    mounts::{attach, clone_at},
    paths,
    spec::SpecError,
};
use crate::{
    failure::{Failure, Step},
    process::terminal::{self, Terminal},
    syscalls::{MountAttributes, mount_setattr},
};

const READ_ONLY: MountAttributes = MountAttributes {
    set: libc::MOUNT_ATTR_RDONLY,
    clear: 0,
    propagation: 0,
};

/// The root after everything has been made in it; what is left is to enter it.
pub struct Root {
    root: OwnedFd,
    read_only_later: Vec<OwnedFd>,
}

impl Root {
    /// Mounts everything, makes the devices, hides the paths to be hidden. Runs in the container's mount namespace.
    ///
    /// # Errors
    /// Names the step.
    pub fn build(plan: &Plan) -> Result<Self, Failure> {
        let path = plan.container.root.path();
        let named = || format!("root file system {}", path.display());
        let root = open_tree(
            CWD,
            path,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE,
        )
        .step(named)?;
        if FileType::from_raw_mode(fstat(&root).step(named)?.st_mode) != FileType::Directory {
            return Err(Failure::step(named(), Errno::NOTDIR));
        }
        let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(named)?;
        attach(&root, place).step(named)?;

        let mut read_only_later = Vec::new();
        for mount in &plan.mounts {
            read_only_later.extend(mount.mount(root.as_fd())?);
        }
        if !plan.mounts.iter().any(super::mounts::PlannedMount::is_bound_dev) {
            let mask = umask(Mode::empty());
            let created = devices::create_all(root.as_fd(), &plan.devices, plan.namespaces.user());
            umask(mask);
            created?;
        }
        Ok(Self {
            root,
            read_only_later,
        })
    }

    /// Makes a pseudo-terminal in the container, which also becomes its `/dev/console`.
    ///
    /// # Errors
    /// Names the step.
    pub fn terminal(&self) -> Result<Terminal, Failure> {
        let terminal = Terminal::open(self.root.as_fd())?;
        terminal::mount_console(self.root.as_fd(), &terminal)?;
        Ok(terminal)
    }

    /// The root, while it is not yet `/`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Makes it `/`, and the guest's own root unreachable.
    ///
    /// # Errors
    /// Names the step.
    pub fn enter(self, plan: &Plan) -> Result<(), Failure> {
        let linux = &plan.container.linux;
        make_read_only(
            self.root.as_fd(),
            linux.readonly_paths().as_deref().unwrap_or_default(),
        )?;
        mask(
            self.root.as_fd(),
            linux.masked_paths().as_deref().unwrap_or_default(),
        )?;
        for mount in &self.read_only_later {
            mount_setattr(mount, READ_ONLY, false).step(|| "make a mount read-only")?;
        }
        fchdir(&self.root).step(|| "enter the root file system")?;
        pivot_root(".", ".").step(|| "pivot_root")?;
        // The old root lies on top of the new one now, and `.` is the old one.
        unmount(".", UnmountFlags::DETACH).step(|| "unmount the guest's root")?;
        chdir("/").step(|| "enter the root file system")?;
        if let Some((propagation, recursive)) = plan.root_propagation {
            let attributes = MountAttributes {
                propagation,
                ..MountAttributes::default()
            };
            mount_setattr(&self.root, attributes, recursive).step(|| "set linux.rootfsPropagation")?;
        }
        if plan.container.root.readonly() == Some(true) {
            mount_setattr(&self.root, READ_ONLY, false).step(|| "make the root file system read-only")?;
        }
        Ok(())
    }
}

/// Reads linux.rootfsPropagation.
///
/// # Errors
/// When the word is none.
pub fn parse_propagation(word: Option<&str>) -> Result<Option<(u64, bool)>, SpecError> {
    match word.filter(|word| !word.is_empty()) {
        None => Ok(None),
        Some(word) => match root_propagation(word) {
            Some(propagation) => Ok(Some(propagation)),
            None => Err(SpecError::invalid(
                "linux.rootfsPropagation",
                format!("\"{word}\" is no propagation"),
            )),
        },
    }
}

fn existing(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match paths::open(root, Path::new(path), OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn make_read_only(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), Failure> {
    for path in paths {
        existing(root, path)
            .and_then(|place| {
                let Some(place) = place else { return Ok(()) };
                attach(&clone_at(&place, true, READ_ONLY)?, &place)
            })
            .step(|| format!("make {path} read-only"))?;
    }
    Ok(())
}

/// A masked file becomes `/dev/null`, a masked folder an empty one.
fn mask(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), Failure> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        existing(root, path)
            .and_then(|place| {
                let Some(place) = place else { return Ok(()) };
                let cover = if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::Directory {
                    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                    open_tree(CWD, "/dev/null", flags)?
                } else if let Some(first) = &empty {
                    clone_at(first, false, MountAttributes::default())?
                } else {
                    empty_folder()?
                };
                attach(&cover, &place)?;
                if FileType::from_raw_mode(fstat(&cover)?.st_mode) == FileType::Directory {
                    empty = Some(cover);
                }
                Ok(())
            })
            .step(|| format!("mask {path}"))?;
    }
    Ok(())
}

fn empty_folder() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}
