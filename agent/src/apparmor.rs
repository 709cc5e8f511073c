//! AppArmor profiles, which the host sends compiled: the guest has no parser, and no profile of its own.

use std::{fs::File, io::Write};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use crate::failure::{Failure, Step};

/// The longest policy that the kernel takes in one piece is far longer.
const MAX_POLICY: usize = 2 << 20;

/// Loads a compiled policy into the kernel; of profiles that are there already, the new ones take the place.
///
/// # Errors
/// The guest's kernel has no AppArmor, or refuses the policy.
pub fn load(name: &str, policy: &[u8]) -> Result<(), Failure> {
    let named = || format!("load AppArmor profile \"{name}\"");
    if policy.is_empty() || policy.len() > MAX_POLICY {
        let problem = format!("a policy of {} bytes is not 1 to {MAX_POLICY}", policy.len());
        return Err(Failure::new(format!("{}: {problem}", named())));
    }
    let mut interface = match open_interface() {
        Err(Errno::NOENT | Errno::NODEV) => {
            return Err(Failure::new(format!(
                "{}: the guest's kernel has no AppArmor",
                named()
            )));
        }
        result => result.step(named)?,
    };
    // The kernel wants all of it at once.
    let written = interface.write(policy).step(named)?;
    if written != policy.len() {
        return Err(Failure::step(named(), Errno::IO));
    }
    Ok(())
}

/// Opens the file by which policy gets into the kernel. It is in a file system that nothing else in the guest needs, so
/// that it is mounted nowhere but for this.
fn open_interface() -> Result<File, Errno> {
    let context = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let file = openat(
        &root,
        "apparmor/.replace",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(File::from(file))
}
