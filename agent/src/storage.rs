//! The file systems that the host attaches to the guest for its containers: folders over virtio-fs, images over
//! virtio-blk.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    os::{fd::AsFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::{DISK_FOLDER, SHARED_FOLDER, is_folder_of, messages::Storage};
use oci_spec::runtime::MountBuilder;
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::UnmountFlags,
};

use crate::{
    container::mounts::PlannedMount,
    error::AgentError,
    failure::{Failure, Step},
};

/// Mounts a storage, unless its target is one of an earlier request.
///
/// # Errors
/// Names the target.
pub fn mount(storage: &Storage, mounted: &mut HashSet<PathBuf>) -> Result<(), AgentError> {
    let target = PathBuf::from(&storage.target);
    if !target.is_absolute()
        || target
            .components()
            .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(AgentError::Request(format!(
            "storage target \"{}\" is not absolute",
            storage.target
        )));
    }
    if mounted.contains(&target) {
        return Ok(());
    }
    let source = match storage.fstype.as_str() {
        "virtiofs" | "tmpfs" => PathBuf::from(&storage.source),
        _ => block_device(&storage.source)?,
    };
    let mount = MountBuilder::default()
        .destination(&target)
        .typ(&storage.fstype)
        .source(source)
        .options(storage.options.clone())
        .build()
        .map_err(|error| AgentError::Request(format!("storage {}: {error}", storage.target)))?;
    let root =
        rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(|| "open /")?;
    for planned in PlannedMount::parse_all(&[mount])? {
        planned.mount(root.as_fd())?;
    }
    mounted.insert(target);
    Ok(())
}

/// The device node of the virtio-blk device with the serial number given.
///
/// # Errors
/// There is none.
pub fn block_device(serial: &str) -> Result<PathBuf, Failure> {
    let missing = || Failure::new(format!("no block device has the serial number \"{serial}\""));
    let devices = fs::read_dir("/sys/block").step(|| "read /sys/block")?;
    devices
        .flatten()
        .find(|device| {
            fs::read_to_string(device.path().join("serial")).is_ok_and(|own| own.trim_end() == serial)
        })
        .map(|device| Path::new("/dev").join(device.file_name()))
        .ok_or_else(missing)
}

/// Has the guest mount what the host has mounted below the sources of bind mounts. On its first use inside such a mount it
/// would get that one's attributes, and be read-only where only the mount itself is to be.
pub fn visit(submounts: &[String]) {
    for path in submounts {
        // One that has gone meanwhile is nothing to bind.
        let _ = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
    }
}

/// Lets go of the file systems of a deleted container's disks, and of what it has had in the sandbox's shared folder. That folder's file systems are mounted on their
/// first use and stay until then, and keep the host from letting go of its own.
pub fn release(container: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Those below are listed after those above.
    for target in mounts.lines().rev().filter_map(mount_point) {
        let folder_in = |parent| target.strip_prefix(parent).ok()?.iter().next()?.to_str();
        let is_shared = folder_in(SHARED_FOLDER).is_some_and(|folder| is_folder_of(folder, container));
        let is_disk = folder_in(DISK_FOLDER).is_some_and(|folder| folder == container);
        if !is_shared && !is_disk {
            continue;
        }
        if let Err(errno) = rustix::mount::unmount(&target, UnmountFlags::DETACH) {
            eprintln!("bulkhead-agent: unmount {}: {errno}", target.display());
        }
    }
}

/// The mount point of a line of mountinfo (proc_pid_mountinfo(5)). An octal number stands for a byte that would end the field.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut parts = field.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (octal, rest) = part.split_at_checked(3)?;
        bytes.push(u8::from_str_radix(octal, 8).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// Writes everything back and takes the storages away.
pub fn unmount_all(mounted: HashSet<PathBuf>) {
    rustix::fs::sync();
    let mut targets: Vec<PathBuf> = mounted.into_iter().collect();
    // What is mounted inside another goes first.
    targets.sort_unstable();
    for target in targets.iter().rev() {
        if let Err(errno) = rustix::mount::unmount(target, UnmountFlags::empty()) {
            eprintln!("bulkhead-agent: unmount {}: {errno}", target.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_read_from_its_line() {
        let at = |path: &str| mount_point(&format!("36 35 0:40 / {path} rw - virtiofs bulkhead rw"));
        assert_eq!(at("/run/a"), Some(PathBuf::from("/run/a")));
        assert_eq!(
            at(r"/run/with\040space\134"),
            Some(PathBuf::from(r"/run/with space\"))
        );
        assert_eq!(at(r"/run/broken\0"), None);
        assert_eq!(mount_point(""), None);
    }

    #[test]
    fn a_folder_is_that_of_one_container() {
        assert!(is_folder_of("a-12", "a"));
        assert!(is_folder_of("a-5-12", "a-5"));
        assert!(!is_folder_of("a-5-12", "a"));
        assert!(!is_folder_of("a", "a"));
    }
}
