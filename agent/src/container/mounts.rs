//! Mounts the file systems of config.json inside the container's root, in their order.
//!
//! Every mount is made detached, gets its attributes there, and is moved to its place by descriptor: no path inside
//! the container's root is ever resolved by name alone (see [`super::paths`]).

use std::{
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::Mount;
use rustix::{
    fs::{CWD, FileType, OFlags, fstat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
        fspick, move_mount, open_tree,
    },
};

use super::{
    cgroup, copy_up,
    mount_options::MountOptions,
    paths::{self, Kind},
    spec::SpecError,
};
use crate::{
    failure::{Failure, Step},
    syscalls::{MountAttributes, mount_setattr},
};

/// File systems with no device behind them, whose superblock other mounts may share: read-only is a matter of the
/// mount alone.
const WITHOUT_DEVICE: &[&str] = &["cgroup2", "devpts", "mqueue", "proc", "sysfs", "tmpfs"];

/// One entry of `mounts`, ready to be mounted.
#[derive(Debug)]
pub struct PlannedMount {
    destination: std::path::PathBuf,
    source: String,
    fstype: String,
    options: MountOptions,
}

impl PlannedMount {
    /// Reads the entries.
    ///
    /// # Errors
    /// The first entry that is a bind without an absolute source, or neither has a type nor is a bind.
    pub fn parse_all(mounts: &[Mount]) -> Result<Vec<Self>, SpecError> {
        mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| Self::parse(index, mount))
            .collect()
    }

    fn parse(index: usize, mount: &Mount) -> Result<Self, SpecError> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let words = mount.options().iter().flatten().map(String::as_str);
        let mut options = MountOptions::parse(words);
        let source = mount
            .source()
            .as_deref()
            .unwrap_or(Path::new(""))
            .to_string_lossy()
            .into_owned();
        let mut fstype = mount.typ().clone().unwrap_or_default();
        if fstype == "bind" && options.bind.is_none() {
            options.bind = Some(false);
        }
        if options.bind.is_some() {
            if !options.remount && !source.starts_with('/') {
                return Err(SpecError::invalid(
                    field("source"),
                    format!("\"{source}\" is not absolute"),
                ));
            }
        } else if fstype.is_empty() || fstype == "none" {
            if !options.remount && options.propagation.is_empty() {
                return Err(SpecError::invalid(field("type"), "is missing"));
            }
            options.remount = true;
        }
        if fstype == "cgroup" {
            "cgroup2".clone_into(&mut fstype);
        }
        if fstype == "cgroup2" {
            // Its data are those of the guest's only hierarchy.
            options.data.clear();
        }
        if options.copy_up && fstype != "tmpfs" {
            return Err(SpecError::invalid(field("options"), "tmpcopyup is for a tmpfs"));
        }
        Ok(Self {
            destination: Path::new("/").join(mount.destination()),
            source,
            fstype,
            options,
        })
    }

    /// Whether the container's `/dev` is one that the caller shares, and not to be filled.
    pub fn is_bound_dev(&self) -> bool {
        self.options.bind.is_some() && self.destination == Path::new("/dev")
    }

    /// Whether the container can change its cgroup there.
    pub fn is_writable_cgroup(&self) -> bool {
        self.fstype == "cgroup2" && !self.options.read_only()
    }

    /// Mounts it inside `root`. A mount that must become read-only only after its content has been made is given
    /// back.
    ///
    /// # Errors
    /// Names the destination.
    pub fn mount(&self, root: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Failure> {
        if self.options.remount {
            return self.remount(root).map(|()| None);
        }
        let mounted = match self.options.bind {
            Some(recursive) => self.bind(Path::new(&self.source), recursive)?,
            None => match self.create(root) {
                // A user namespace may not mount what shows the network or the cgroups of another: show the guest's.
                Err((_, Errno::PERM)) if self.fstype == "sysfs" => self.show("/sys")?,
                Err((_, Errno::PERM)) if self.fstype == "cgroup2" => self.show(cgroup::MOUNT_POINT)?,
                result => result.map_err(|(message, errno)| Failure::step(self.named(&message), errno))?,
            },
        };
        let kind = match fstat(&mounted).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory) => Kind::Folder,
            _ => Kind::File,
        };
        let target = self.target(root, kind)?;
        if self.options.copy_up {
            copy_up::copy(target.as_fd(), mounted.as_fd())
                .step(|| self.named("copy the folder's content"))?;
        }
        attach(&mounted, &target).step(|| self.named(""))?;
        self.propagate(mounted.as_fd())?;
        Ok(self.read_only_later().then_some(mounted))
    }

    fn named(&self, detail: &str) -> String {
        let destination = self.destination.display();
        if detail.is_empty() {
            format!("mount {destination}")
        } else {
            format!("mount {destination}: {detail}")
        }
    }

    /// Device nodes, mount points and the like are still to be made in it.
    fn read_only_later(&self) -> bool {
        self.options.read_only() && (self.fstype == "tmpfs" || self.destination == Path::new("/dev"))
    }

    fn target(&self, root: BorrowedFd<'_>, kind: Kind) -> Result<OwnedFd, Failure> {
        if matches!(self.fstype.as_str(), "proc" | "sysfs") {
            // Masked and read-only paths count on these being where they seem to be.
            match paths::open_without_links(root, &self.destination, OFlags::PATH) {
                Err(Errno::NOENT) => {}
                Err(Errno::LOOP) => {
                    return Err(Failure::new(
                        self.named("a symbolic link is in the way of a proc or sysfs"),
                    ));
                }
                result => return result.step(|| self.named("")),
            }
        }
        paths::open_or_create(root, &self.destination, kind).step(|| self.named("make the mount point"))
    }

    fn bind(&self, source: &Path, recursive: bool) -> Result<OwnedFd, Failure> {
        let source_named = || self.named(&format!("source \"{}\"", source.display()));
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        let tree = open_tree(CWD, source, flags).step(source_named)?;
        let mut attributes = self.options.attributes;
        if self.read_only_later() {
            attributes.set &= !libc::MOUNT_ATTR_RDONLY;
        }
        self.set(tree.as_fd(), attributes)?;
        Ok(tree)
    }

    /// The guest's own, with the cgroups of all containers, so to be looked at only: a user that is the guest's root may
    /// write there.
    fn show(&self, place: &str) -> Result<OwnedFd, Failure> {
        let guests = self.bind(Path::new(place), true)?;
        let read_only = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttributes::default()
        };
        mount_setattr(&guests, read_only, true).step(|| self.named("set attributes"))?;
        Ok(guests)
    }

    fn set(&self, mount: BorrowedFd<'_>, attributes: MountAttributes) -> Result<(), Failure> {
        for (attributes, recursive) in [(self.options.recursive, true), (attributes, false)] {
            if attributes != MountAttributes::default() {
                mount_setattr(mount, attributes, recursive).step(|| self.named("set attributes"))?;
            }
        }
        Ok(())
    }

    /// A new file system, not yet anywhere. An error comes with what the file system says about it.
    fn create(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, (String, Errno)> {
        let context = fsopen(self.fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| (format!("file system type \"{}\"", self.fstype), errno))?;
        self.configure(context.as_fd(), root)
            .and_then(|()| fsconfig_create(&context))
            .and_then(|()| {
                let mut attributes = MountAttrFlags::from_bits_retain(
                    u32::try_from(self.options.attributes.set).map_err(|_| Errno::INVAL)?,
                );
                if self.read_only_later() {
                    attributes.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
                }
                let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
                if self.options.recursive != MountAttributes::default() {
                    mount_setattr(&mounted, self.options.recursive, true)?;
                }
                Ok(mounted)
            })
            .map_err(|errno| (complaint(context), errno))
    }

    fn configure(&self, context: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<(), Errno> {
        let source = if self.source.is_empty() {
            &self.fstype
        } else {
            &self.source
        };
        fsconfig_set_string(context, "source", source.as_str())?;
        for (key, value) in &self.options.data {
            match value {
                Some(value) => fsconfig_set_string(context, key.as_str(), value.as_str())?,
                None => fsconfig_set_flag(context, key.as_str())?,
            }
        }
        for flag in &self.options.flags {
            fsconfig_set_flag(context, *flag)?;
        }
        if self.options.read_only() && !WITHOUT_DEVICE.contains(&self.fstype.as_str()) {
            fsconfig_set_flag(context, "ro")?;
        }
        if self.fstype == "tmpfs" && !self.options.data.iter().any(|(key, _)| key == "mode") {
            // It takes the place of a folder, and so the folder's permissions.
            if let Ok(covered) = paths::open(root, &self.destination, OFlags::PATH) {
                let mode = fstat(&covered)?.st_mode & 0o7777;
                fsconfig_set_string(context, "mode", format!("{mode:o}"))?;
            }
        }
        Ok(())
    }

    fn remount(&self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        let target = paths::open(root, &self.destination, OFlags::PATH).step(|| self.named(""))?;
        if self.options.bind.is_none() && !(self.options.data.is_empty() && self.options.flags.is_empty()) {
            let context = fspick(
                &target,
                "",
                FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH,
            )
            .step(|| self.named("remount"))?;
            self.configure(context.as_fd(), root)
                .and_then(|()| fsconfig_reconfigure(&context))
                .map_err(|errno| Failure::step(self.named(&complaint(context)), errno))?;
        }
        self.set(target.as_fd(), self.options.attributes)?;
        self.propagate(target.as_fd())
    }

    fn propagate(&self, mount: BorrowedFd<'_>) -> Result<(), Failure> {
        for (propagation, recursive) in &self.options.propagation {
            let attributes = MountAttributes {
                propagation: *propagation,
                ..MountAttributes::default()
            };
            mount_setattr(mount, attributes, *recursive).step(|| self.named("set propagation"))?;
        }
        Ok(())
    }
}

/// Moves a detached mount to its place.
///
/// # Errors
/// What move_mount(2) gives.
pub fn attach(mount: &OwnedFd, target: impl AsFd) -> Result<(), Errno> {
    move_mount(
        mount,
        "",
        target.as_fd(),
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Clones what is at the place `place`, not yet anywhere, with the attributes given.
///
/// # Errors
/// What open_tree(2) and mount_setattr(2) give.
pub fn clone_at(place: impl AsFd, recursive: bool, attributes: MountAttributes) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = open_tree(place.as_fd(), "", flags)?;
    if attributes != MountAttributes::default() {
        mount_setattr(&tree, attributes, false)?;
    }
    Ok(tree)
}

/// What the file system has said about the last failure, without its level, or nothing.
fn complaint(context: OwnedFd) -> String {
    let mut text = [0; 512];
    match std::fs::File::from(context).read(&mut text) {
        Ok(length) => {
            let text = String::from_utf8_lossy(&text[..length]);
            text.strip_prefix("e ").unwrap_or(&text).trim_end().to_owned()
        }
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests;
