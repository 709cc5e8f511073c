//! The slots in which the VMM puts devices after the driver has found them empty.

use std::{
    fs, io,
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

/// The virtio device below a slot's.
///
/// # Errors
/// What reading the folder gives.
pub fn virtio_device(platform: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(platform)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"virtio") {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn device(slot: u32) -> (String, PathBuf) {
    let device = format!("virtio-mmio.{slot}");
    let folder = Path::new("/sys/bus/platform/devices").join(&device);
    (device, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_virtio_device_is_found_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("power")).unwrap();
        assert_eq!(virtio_device(folder.path()).unwrap(), None);
        let device = folder.path().join("virtio7");
        fs::create_dir(&device).unwrap();
        assert_eq!(virtio_device(folder.path()).unwrap(), Some(device));
        virtio_device(&folder.path().join("missing")).unwrap_err();
    }
}
