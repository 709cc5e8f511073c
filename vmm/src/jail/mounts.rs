//! A root that is the working directory and nothing else.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{AT_EMPTY_PATH, AT_RECURSIVE, c_long};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, fchdir, pivot_root};

use super::JailError;

const HERE: &std::ffi::CStr = c".";

/// Makes the working directory, with what is mounted below it, the root of this mount namespace.
///
/// What the host mounts or unmounts below it later arrives here too, where it comes from a shared mount; nothing goes the
/// other way. Nothing on it is executed or opened as a device, and it cannot be written to unless `writable`.
pub fn make_working_directory_the_root(writable: bool) -> Result<(), JailError> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(JailError::step("stop its mounts from reaching the host"))?;
    // pivot_root takes a mount point: a copy of the directory's mounts over itself.
    let root = copy_mounts_here().map_err(JailError::step("copy the mounts of its working directory"))?;
    restrict(&root, writable).map_err(JailError::step("restrict its root"))?;
    attach_here(&root).map_err(JailError::step("mount its root"))?;
    fchdir(&root).map_err(JailError::step("enter its root"))?;
    // The old root ends up mounted over the new one, from where it is taken away.
    pivot_root(HERE, HERE).map_err(JailError::step("change its root"))?;
    umount2(HERE, MntFlags::MNT_DETACH).map_err(JailError::step("let go of the host's root"))?;
    chdir("/").map_err(JailError::step("enter its root"))
}

fn copy_mounts_here() -> nix::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | AT_RECURSIVE as libc::c_uint;
    // SAFETY: a valid path; the result is checked before it is used.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, HERE.as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn restrict(tree: &OwnedFd, writable: bool) -> nix::Result<()> {
    let common = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let read_only = if writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let attributes = libc::mount_attr {
        attr_set: common | read_only,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: a valid empty path, and a structure with its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            AT_EMPTY_PATH | AT_RECURSIVE,
            ptr::from_ref(&attributes),
            size_of_val(&attributes),
        )
    };
    done(result)
}

fn attach_here(tree: &OwnedFd) -> nix::Result<()> {
    // SAFETY: valid paths.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            HERE.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    done(result)
}

fn done(result: c_long) -> nix::Result<()> {
    Errno::result(result).map(drop)
}
