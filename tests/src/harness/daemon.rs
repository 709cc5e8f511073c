//! Daemons of container engines.

use std::ffi::OsStr;
use std::process::Command;

use super::bulkhead::{Invocation, Running};

/// Starts a daemon and waits until it says, on stdout or stderr, that it is ready.
pub fn start<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>, ready: &str) -> Running {
    start_on(Invocation::new, program, arguments, ready)
}

/// As [`start`], where `place` has its commands run.
pub fn start_on<A: AsRef<OsStr>>(
    place: impl FnOnce(Command) -> Invocation,
    program: &str,
    arguments: impl IntoIterator<Item = A>,
    ready: &str,
) -> Running {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 2>&1", program])
        .args(arguments);
    let daemon = place(command).spawn();
    daemon.wait_for(ready);
    daemon
}
