//! Taking a network device into use that the VMM has put into a slot.

use std::{fs, path::Path};

use crate::{
    failure::{Failure, Step},
    slot,
};

/// Has the driver take what is in a slot, and returns the name of the network interface.
///
/// # Errors
/// When nothing is there, and when it is no network device.
pub fn bind(slot: u32) -> Result<String, Failure> {
    let folder = slot::bind(slot)?;
    interface_of(&folder)
        .step(|| format!("look for the interface of slot {slot}"))?
        .ok_or_else(|| Failure::new(format!("what is in slot {slot} is no network device")))
}

/// The interface below a platform device: `virtio<M>/net/<name>`.
fn interface_of(device: &Path) -> std::io::Result<Option<String>> {
    for entry in fs::read_dir(device)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b"virtio") {
            continue;
        }
        if let Some(interface) = fs::read_dir(entry.path().join("net"))
            .ok()
            .and_then(|mut interfaces| interfaces.next())
        {
            return Ok(interface?.file_name().into_string().ok());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_found_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(interface_of(folder.path()).unwrap(), None);
        fs::create_dir_all(folder.path().join("power/net/wrong")).unwrap();
        fs::create_dir(folder.path().join("virtio7")).unwrap();
        assert_eq!(interface_of(folder.path()).unwrap(), None);
        fs::create_dir_all(folder.path().join("virtio7/net/eth0")).unwrap();
        assert_eq!(interface_of(folder.path()).unwrap(), Some("eth0".to_owned()));
        interface_of(&folder.path().join("missing")).unwrap_err();
    }
}
