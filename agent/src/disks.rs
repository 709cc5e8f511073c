//! The disks of the guest that stand for block devices of the host's: what a config.json says of them has the host's
//! numbers, which are others here.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::{DISK_LINKS, messages::Disk};
use rustix::fs::{Dev, Gid, Mode, Uid, chmod, chown, major, minor, stat};
use serde_json::{Value, json};

use crate::{
    error::AgentError,
    failure::{Failure, Step},
    slot,
    storage::block_device,
};

/// The lists of config.json whose items name a device by its number. In the first two an item has a type, too.
const LISTS: [&str; 7] = [
    "/linux/devices",
    "/linux/resources/devices",
    "/linux/resources/blockIO/weightDevice",
    "/linux/resources/blockIO/throttleReadBpsDevice",
    "/linux/resources/blockIO/throttleWriteBpsDevice",
    "/linux/resources/blockIO/throttleReadIOPSDevice",
    "/linux/resources/blockIO/throttleWriteIOPSDevice",
];

/// A device number: major and minor.
type Number = (u32, u32);

/// The disks that have come while the guest ran, and who has which.
#[derive(Debug, Default)]
pub struct Plugged {
    slots: BTreeMap<String, u32>,
    /// By container, also of disks that have been there from the start.
    had: BTreeMap<String, Vec<String>>,
}

impl Plugged {
    /// Takes a container's disks into use, as far as they have just come.
    ///
    /// # Errors
    /// One has not come. What came before it stays the container's.
    pub fn take(&mut self, container: &str, disks: &[Disk]) -> Result<(), Failure> {
        for disk in disks {
            if let Some(slot) = disk.slot {
                slot::bind(slot)
                    .map_err(|failure| Failure::new(format!("disk \"{}\": {failure}", disk.id)))?;
                self.slots.insert(disk.id.clone(), slot);
            }
            self.had
                .entry(container.to_owned())
                .or_default()
                .push(disk.id.clone());
        }
        Ok(())
    }

    /// A container has none any more.
    pub fn forget(&mut self, container: &str) {
        self.had.remove(container);
    }

    /// Lets go of those of `disks` that no container has, and returns them. What was written to them is on the host then.
    ///
    /// # Errors
    /// The kernel's, of the first that it keeps.
    pub fn release(&mut self, disks: &[String]) -> Result<Vec<String>, Failure> {
        let mut released = Vec::new();
        for id in disks.iter().filter(|id| !self.is_had(id)) {
            // One that was never taken into use has no driver.
            if let Some(slot) = self.slots.get(id) {
                remove_links(id);
                slot::unbind(*slot)?;
            }
            released.push(id.clone());
        }
        for id in &released {
            self.slots.remove(id);
        }
        Ok(released)
    }

    fn is_had(&self, id: &str) -> bool {
        self.had.values().flatten().any(|had| had == id)
    }
}

/// Removes what [`make_known`] has made for a disk.
fn remove_links(id: &str) {
    let link = format!("{DISK_LINKS}{id}");
    if let Ok(status) = stat(&link) {
        // They are made anew for a disk that comes again.
        let _ = fs::remove_file(node(status.st_rdev));
    }
    let _ = fs::remove_file(link);
}

/// Makes the nodes of the disks like the host's, and links to them by the names that the config.json has for them; gives the
/// config.json with the guest's numbers.
///
/// # Errors
/// A disk that is not there, a config.json that is not JSON.
pub fn prepare<'a>(disks: &[Disk], spec: &'a [u8]) -> Result<Cow<'a, [u8]>, AgentError> {
    if disks.is_empty() {
        return Ok(Cow::Borrowed(spec));
    }
    let mut numbers = Vec::with_capacity(disks.len());
    for disk in disks {
        numbers.push(((disk.major, disk.minor), make_known(disk)?));
    }
    let mut document: Value =
        serde_json::from_slice(spec).map_err(|error| AgentError::Request(error.to_string()))?;
    renumber(&mut document, &numbers);
    Ok(Cow::Owned(document.to_string().into_bytes()))
}

/// Gives the disk's node the permissions and the owner of the host's, and a link; answers with its number here.
fn make_known(disk: &Disk) -> Result<Number, Failure> {
    let named = || format!("disk \"{}\"", disk.id);
    let node = block_device(&disk.id)?;
    chmod(&node, Mode::from_raw_mode(disk.mode & 0o7777)).step(named)?;
    chown(
        &node,
        owner(disk.uid).map(Uid::from_raw),
        owner(disk.gid).map(Gid::from_raw),
    )
    .step(named)?;
    let link = format!("{DISK_LINKS}{}", disk.id);
    let number = stat(&node).step(named)?.st_rdev;
    for link in [Path::new(&link), &self::node(number)] {
        if let Some(folder) = link.parent() {
            fs::create_dir_all(folder).step(named)?;
        }
        match symlink(&node, link) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result.step(named)?,
        }
    }
    Ok((major(number), minor(number)))
}

/// The guest's own node of the disk with that number.
pub fn node(number: Dev) -> PathBuf {
    format!("/dev/block/{}:{}", major(number), minor(number)).into()
}

/// The largest number stands for none.
fn owner(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

/// Replaces the host's numbers of block devices by the guest's.
fn renumber(document: &mut Value, numbers: &[(Number, Number)]) {
    for list in LISTS {
        let items = document.pointer_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten().filter_map(Value::as_object_mut) {
            let is_block = item.get("type").is_none_or(|kind| kind == "b");
            let part = |name| {
                item.get(name)
                    .and_then(Value::as_u64)
                    .and_then(|part| u32::try_from(part).ok())
            };
            let (Some(major), Some(minor), true) = (part("major"), part("minor"), is_block) else {
                continue;
            };
            if let Some((_, (major, minor))) = numbers.iter().find(|(host, _)| *host == (major, minor)) {
                item.insert("major".to_owned(), json!(major));
                item.insert("minor".to_owned(), json!(minor));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_block_devices_become_the_guests() {
        let mut document = json!({"linux": {
            "devices": [
                {"path": "/dev/a", "type": "b", "major": 8, "minor": 0},
                {"path": "/dev/b", "type": "c", "major": 8, "minor": 0},
                {"path": "/dev/c", "type": "p"},
            ],
            "resources": {
                "devices": [
                    {"allow": false, "access": "rwm"},
                    {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"},
                    {"allow": true, "type": "b", "major": 8, "minor": -1},
                ],
                "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 8}]},
            },
        }});
        let mut expected = document.clone();
        for place in [
            "/linux/devices/0",
            "/linux/resources/devices/1",
            "/linux/resources/blockIO/throttleReadBpsDevice/0",
        ] {
            let item = expected.pointer_mut(place).unwrap();
            item["major"] = json!(254);
            item["minor"] = json!(16);
        }
        renumber(&mut document, &[((8, 16), (254, 0)), ((8, 0), (254, 16))]);
        assert_eq!(document, expected);
    }

    #[test]
    fn a_disk_is_released_when_its_last_container_has_gone() {
        let disk = |id: &str| Disk {
            id: id.to_owned(),
            ..Disk::default()
        };
        let all = ["a", "b", "never taken"].map(str::to_owned);
        let mut plugged = Plugged::default();
        plugged.take("first", &[disk("a"), disk("b")]).unwrap();
        plugged.take("second", &[disk("b")]).unwrap();
        assert_eq!(plugged.release(&all).unwrap(), ["never taken"]);
        plugged.forget("first");
        assert_eq!(plugged.release(&all).unwrap(), ["a", "never taken"]);
        plugged.forget("second");
        assert_eq!(plugged.release(&all[..2]).unwrap(), ["a", "b"]);
    }

    #[test]
    fn without_disks_the_document_stays_as_it_is() {
        assert!(matches!(
            prepare(&[], b"not looked at"),
            Ok(Cow::Borrowed(b"not looked at"))
        ));
    }
}
