//! The file systems that the host attaches to the guest for its containers: folders over virtio-fs, images over
//! virtio-blk.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    os::{fd::AsFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::{SHARED_FOLDER, messages::Storage};
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
    let source = if storage.fstype == "virtiofs" {
        PathBuf::from(&storage.source)
    } else {
        block_device(&storage.source)?
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

/// Lets go of what a deleted container has had in the sandbox's shared folder. The folder's file systems are mounted on their
/// first use and stay until then, and keep the host from letting go of its own.
pub fn release(container: &str) {
    let folder = format!("{SHARED_FOLDER}/{container}/");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Those below are listed after those above.
    for target in mounts.lines().rev().filter_map(|line| mount_point(line, &folder)) {
        if let Err(errno) = rustix::mount::unmount(&target, UnmountFlags::DETACH) {
            eprintln!("bulkhead-agent: unmount {}: {errno}", target.display());
        }
    }
}

/// The mount point of a line of mountinfo (proc_pid_mountinfo(5)), if it is below `folder`. An octal number stands for a byte
/// that would end the field.
fn mount_point(line: &str, folder: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4).filter(|field| field.starts_with(folder))?;
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
    fn a_mount_point_is_found_below_its_folder_only() {
        let folder = "/run/bulkhead/shared/a/";
        let at = |path: &str| mount_point(&format!("36 35 0:40 / {path} rw - virtiofs bulkhead rw"), folder);
        assert_eq!(
            at("/run/bulkhead/shared/a/mounts/1"),
            Some(PathBuf::from("/run/bulkhead/shared/a/mounts/1"))
        );
        assert_eq!(
            at(r"/run/bulkhead/shared/a/mounts/1/with\040space\134"),
            Some(PathBuf::from(r"/run/bulkhead/shared/a/mounts/1/with space\"))
        );
        assert_eq!(at("/run/bulkhead/shared/ab/rootfs"), None);
        assert_eq!(at("/run/bulkhead/shared"), None);
        assert_eq!(mount_point("", folder), None);
    }
}
