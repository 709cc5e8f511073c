//! The slots in which the VMM puts devices after the driver has found them empty.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::failure::{Failure, Step};

const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";

/// Has the driver look at a slot again, unless it has found something there already. Returns the folder of the slot's device.
///
/// # Errors
/// Nothing is there.
pub fn bind(slot: u32) -> Result<PathBuf, Failure> {
    let (device, folder) = device(slot);
    if !folder.join("driver").exists() {
        fs::write(Path::new(DRIVER).join("bind"), &device).step(|| format!("bind {device}"))?;
    }
    Ok(folder)
}

/// Has the driver let go of what is in a slot. Nothing is no error.
///
/// # Errors
/// The kernel's.
pub fn unbind(slot: u32) -> Result<(), Failure> {
    let (device, folder) = device(slot);
    if folder.join("driver").exists() {
        fs::write(Path::new(DRIVER).join("unbind"), &device).step(|| format!("unbind {device}"))?;
    }
    Ok(())
}

fn device(slot: u32) -> (String, PathBuf) {
    let device = format!("virtio-mmio.{slot}");
    let folder = Path::new("/sys/bus/platform/devices").join(&device);
    (device, folder)
}
