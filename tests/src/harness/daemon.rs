//! Daemons of container engines.

use std::ffi::OsStr;
use std::process::Command;

use super::bulkhead::{Invocation, Running};

/// Starts a daemon and waits until it says, on stdout or stderr, that it is ready.
pub fn start<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>, ready: &str) -> Running {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 2>&1", program])
        .args(arguments);
    let daemon = Invocation::new(command).spawn();
    daemon.wait_for(ready);
    daemon
}
