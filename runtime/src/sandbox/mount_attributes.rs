//! mount_setattr(2), which rustix has no wrapper for.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Changes the attributes of a mount, and with `recursive` of those below.
///
/// # Errors
/// The kernel's.
pub fn set(mount: impl AsFd, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads the attributes, of the given size, and an empty path.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes a mount read-only, and with `recursive` those below.
///
/// # Errors
/// The kernel's.
pub fn set_read_only(mount: impl AsFd, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set(mount, &attributes, recursive)
}
