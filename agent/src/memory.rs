//! The guest's memory, of which more can come while it runs.

use std::fs;

use crate::{
    failure::{Failure, Step},
    slot::{self, virtio_device},
};

/// What a kernel does with memory that comes later. Ours takes it into use; others may have to be told.
const NEW_MEMORY: &str = "/sys/devices/system/memory/auto_online_blocks";

/// Takes the memory device in a slot into use. The kernel then gets from it what the VMM wants it to have, by itself.
///
/// # Errors
/// When nothing is there, and when the kernel cannot use it.
pub fn plug(slot: u32) -> Result<(), Failure> {
    let unable = "the guest's kernel cannot take more memory (CONFIG_VIRTIO_MEM)";
    fs::write(NEW_MEMORY, "online").step(|| format!("{unable}: write {NEW_MEMORY}"))?;
    let device = virtio_device(&slot::bind(slot)?).step(|| format!("look for the device in slot {slot}"))?;
    if device.is_some_and(|device| device.join("driver").exists()) {
        return Ok(());
    }
    Err(Failure::new(format!("{unable}: it has no driver for the device")))
}
