//! A kernel that knows no seccomp filters, on a machine whose kernel does.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::seccomp_filter::{end, install, load, unless};

/// Has seccomp(2) fail in `command`, which must not be running, and in its children, as if there were no such call. Needs
/// root.
pub fn without_filters(command: &mut Command) {
    // SAFETY: seccomp(2) is async-signal-safe, and nothing is allocated.
    unsafe { command.pre_exec(answer_no_such_call) };
}

fn answer_no_such_call() -> io::Result<()> {
    // struct seccomp_data has the number at 0.
    let filter = [
        load(0),
        unless(libc::SYS_seccomp as u32, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    install(filter, 0).map(drop)
}
