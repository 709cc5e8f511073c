//! Giving a child descriptors by fixed numbers.

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

/// The first number that is given.
pub const FIRST: RawFd = 3;

/// Has a command's process start with these descriptors as 3, 4 and so on. They are closed here when the command is dropped.
///
/// # Errors
/// No file descriptors left.
pub fn give<const N: usize>(command: &mut Command, descriptors: [OwnedFd; N]) -> io::Result<()> {
    let last = FIRST.saturating_add(RawFd::try_from(N).unwrap_or(RawFd::MAX));
    let mut sources = Vec::with_capacity(N);
    for descriptor in descriptors {
        // Out of the way of those that they become.
        sources.push(rustix::io::fcntl_dupfd_cloexec(&descriptor, last)?);
    }
    let place = move || {
        for (source, target) in sources.iter().zip(FIRST..) {
            // SAFETY: in the child, of one thread, nothing owns these numbers yet; dup2 takes any two numbers.
            if unsafe { libc::dup2(source.as_raw_fd(), target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// Takes the descriptor of that number, which the process was started with.
///
/// # Errors
/// It is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `F_SETFD` takes any number, and says so if it is not that of an open file.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the process was started with it for nobody but the caller of this function.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
