//! The file systems that the host attaches to the guest for its containers: folders over virtio-fs, images over
//! virtio-blk.

use std::{
    collections::HashSet,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::messages::Storage;
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
fn block_device(serial: &str) -> Result<PathBuf, Failure> {
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
