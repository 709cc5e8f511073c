//! The monitor's own process: what it does not keep of its caller's, and how it ends.

use std::{
    fs, io,
    os::fd::{BorrowedFd, RawFd},
};

use nix::sys::{
    resource::{Resource, setrlimit},
    signal::{SigHandler, SigSet, Signal, signal},
};
use rustix::io::FdFlags;

use crate::sandbox::Exit;

/// Closes what the caller's process has inherited itself and does not know of: somebody may wait for its end of file. All
/// that it has opened is to be closed on execution; what it has inherited cannot be.
///
/// # Errors
/// No `/proc`.
pub fn close_inherited() -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // SAFETY: it is used for this call only, which says so if the number is not that of an open file.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC)) {
            // SAFETY: nothing here owns it, as what owns a descriptor sets the flag.
            unsafe { rustix::io::close(number) };
        }
    }
    Ok(())
}

/// Ends the calling process as the workload ended: with its exit code, or by the same signal.
pub fn end_as(exit: Exit) -> ! {
    if let Exit::Signal(number) = exit {
        die_by(number);
    }
    std::process::exit(exit.code())
}

/// Returns if the signal ends nobody.
fn die_by(number: i32) {
    // The memory of this process would explain nothing.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Ok(named) = Signal::try_from(number) {
        // SAFETY: the default action runs nothing of ours.
        let _ = unsafe { signal(named, SigHandler::SigDfl) };
    }
    // Another one that has come meanwhile is held back for good, lest it ends this process first.
    let others = Signal::iterator().filter(|other| *other as i32 != number);
    let _ = others.collect::<SigSet>().thread_set_mask();
    // SAFETY: no pointer is followed. `raise` would take the forking thread's number, not ours.
    unsafe { libc::kill(libc::getpid(), number) };
}
