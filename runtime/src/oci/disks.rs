//! Block devices of the host that a container is to have: each becomes a disk of its virtual machine.
//!
//! A disk is named by `linux.devices`, is bind-mounted over a file, or is the source of a file system. In the guest it has
//! another number than on the host, so that the agent is told both.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::{DISK_FOLDER, DISK_LINKS};
use serde_json::Value;

use super::{FieldError, Mount, Spec, validate::resolve};

/// The most disks that a container can have.
const MOST: usize = 8;

/// A block device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name in the guest, which is its serial number there.
    pub id: String,
    /// The field of `config.json` that names it.
    pub field: String,
    /// Its node on the host.
    pub node: PathBuf,
    /// Its number on the host.
    pub number: (u32, u32),
    /// The permissions of its node.
    pub mode: u32,
    /// The owner of its node, user and group.
    pub owner: (u32, u32),
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// An entry of `mounts` that has a disk for its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskMount {
    /// Its place in `mounts`.
    pub index: usize,
    /// The disk's name.
    pub disk: String,
    /// The file system to mount from it, and its options; none: the node itself is mounted over a file.
    pub file_system: Option<(String, Vec<String>)>,
}

/// The disks of a container, and what is mounted from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disks {
    /// Every disk once.
    pub disks: Vec<Disk>,
    /// What is mounted from them.
    pub mounts: Vec<DiskMount>,
}

impl Disks {
    /// Finds the block devices that a document names.
    ///
    /// # Errors
    /// The first device that the host does not have.
    pub fn find(spec: &Spec, bundle: &Path) -> Result<Self, FieldError> {
        let mut found = Self::default();
        for (index, device) in spec.linux.devices.iter().enumerate() {
            let field = format!("linux.devices[{index}]");
            if device.kind == "b" {
                let (number, node) = node_of((device.major, device.minor))
                    .map_err(|problem| FieldError::new(&field, problem))?;
                found.add(
                    &field,
                    number,
                    node,
                    !spec.linux.resources.may_write_block(number),
                )?;
            }
        }
        for (index, mount) in spec.mounts.iter().enumerate() {
            if let Some(node) = block_source(mount, bundle) {
                found.add_mount(spec, index, mount, node)?;
            }
        }
        Ok(found)
    }

    /// The document with the guest's names for what is mounted from disks.
    pub fn for_guest(&self, mut document: Value, container: &str) -> Value {
        for disk in &self.mounts {
            if let Some(mount) = document
                .pointer_mut(&format!("/mounts/{}", disk.index))
                .and_then(Value::as_object_mut)
            {
                let source = match disk.file_system {
                    // The guest has mounted it already.
                    Some(_) => disk_folder(container, disk.index),
                    None => format!("{DISK_LINKS}{}", disk.disk),
                };
                mount.insert("source".to_owned(), source.into());
                mount.insert("type".to_owned(), "bind".into());
            }
        }
        document
    }

    fn add_mount(
        &mut self,
        spec: &Spec,
        index: usize,
        mount: &Mount,
        node: PathBuf,
    ) -> Result<(), FieldError> {
        let field = format!("mounts[{index}].source");
        let metadata = fs::metadata(&node)
            .map_err(|error| FieldError::new(&field, format!("{}: {error}", node.display())))?;
        let number = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        let read_only = if mount.is_bind() {
            !spec.linux.resources.may_write_block(number)
        } else {
            mount.is_read_only()
        };
        let disk = self.add(&field, number, node, read_only)?;
        self.mounts.push(DiskMount {
            index,
            disk,
            file_system: (!mount.is_bind()).then(|| (mount.kind.clone(), mount.options.clone())),
        });
        Ok(())
    }

    /// Adds a disk, unless it is there already; answers with its name.
    fn add(
        &mut self,
        field: &str,
        number: (u32, u32),
        node: PathBuf,
        read_only: bool,
    ) -> Result<String, FieldError> {
        if let Some(disk) = self.disks.iter_mut().find(|disk| disk.number == number) {
            disk.read_only &= read_only;
            return Ok(disk.id.clone());
        }
        if self.disks.len() == MOST {
            return Err(FieldError::new(
                field,
                format!("a container can have {MOST} block devices at most"),
            ));
        }
        let metadata = fs::metadata(&node)
            .map_err(|error| FieldError::new(field, format!("{}: {error}", node.display())))?;
        // The same for every container of a sandbox that names the device.
        let id = format!("host-{}:{}", number.0, number.1);
        self.disks.push(Disk {
            id: id.clone(),
            field: field.to_owned(),
            node,
            number,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            read_only,
        });
        Ok(id)
    }
}

/// Where the guest mounts a disk's file system for the mount at that place in `mounts`.
pub fn disk_folder(container: &str, index: usize) -> String {
    format!("{DISK_FOLDER}/{container}/{index}")
}

/// The block device that is a mount's source, if one is.
pub fn block_source(mount: &Mount, bundle: &Path) -> Option<PathBuf> {
    if !mount.is_bind() && !mount.source.starts_with('/') {
        return None;
    }
    let path = resolve(bundle, &mount.source);
    let is_block_device = fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    is_block_device.then_some(path)
}

/// The node of the block device with this number.
fn node_of((major, minor): (i64, i64)) -> Result<((u32, u32), PathBuf), String> {
    let missing = || format!("the host has no block device {major}:{minor}");
    let number = (
        u32::try_from(major).map_err(|_| missing())?,
        u32::try_from(minor).map_err(|_| missing())?,
    );
    let attributes =
        fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).map_err(|_| missing())?;
    let name = attributes.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let node = Path::new("/dev").join(name.ok_or_else(missing)?);
    let is_it = fs::metadata(&node).is_ok_and(|metadata| {
        metadata.file_type().is_block_device() && metadata.rdev() == libc::makedev(number.0, number.1)
    });
    if is_it { Ok((number, node)) } else { Err(missing()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(document: &Value) -> Result<Disks, String> {
        let spec = Spec::view(document).expect("the types are right");
        Disks::find(&spec, Path::new("/")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_block_device_has_to_be_there() {
        for (major, minor) in [(4095, 1), (-1, 0), (8, i64::MAX)] {
            let device = json!({"path": "/dev/x", "type": "b", "major": major, "minor": minor});
            let error = find(&json!({"linux": {"devices": [device]}})).expect_err("no such device");
            let words = format!("linux.devices[0]: the host has no block device {major}:{minor}");
            assert_eq!(error, words);
        }
    }

    #[test]
    fn what_is_no_block_device_is_no_disk() {
        let mounts = json!({"mounts": [
            {"destination": "/a", "type": "bind", "source": "/etc/passwd", "options": ["bind"]},
            {"destination": "/b", "type": "tmpfs", "source": "/dev/null"},
            {"destination": "/c", "type": "ext4", "source": "/nonexistent"},
            {"destination": "/d", "type": "proc", "source": "proc"},
        ]});
        assert_eq!(find(&mounts), Ok(Disks::default()));
    }
}
