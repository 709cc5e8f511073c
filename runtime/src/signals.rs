//! The signals that are passed on to the workload.

use std::{io, os::fd::OwnedFd};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// Those whose default would end the process that carries the workload. Stopping and continuing stay with the shell's job
/// control, and what reports the program's own faults stays with the program.
const PASSED_ON: [Signal; 12] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGWINCH,
];

/// The number of `SIGWINCH`: the terminal has another size.
pub const WINDOW_CHANGED: i32 = Signal::SIGWINCH as i32;

/// The size of a `signalfd_siginfo`, which begins with the signal's number (signalfd(2)).
const SIGINFO: usize = 128;

/// Holds the signals back and makes them readable, without blocking.
///
/// # Errors
/// No file descriptors left.
pub fn take() -> io::Result<OwnedFd> {
    let set: SigSet = PASSED_ON.into_iter().collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?.into())
}

/// The next signal's number.
///
/// # Errors
/// `WouldBlock` when there is none.
pub fn next(signals: &OwnedFd) -> io::Result<i32> {
    let mut info = [0; SIGINFO];
    rustix::io::read(signals, &mut info)?;
    let [a, b, c, d, ..] = info;
    Ok(i32::from_ne_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_held_back_and_read() {
        let signals = take().expect("descriptors");
        assert_eq!(
            next(&signals).expect_err("none yet").kind(),
            io::ErrorKind::WouldBlock
        );
        nix::sys::signal::raise(Signal::SIGUSR1).expect("raised");
        assert_eq!(next(&signals).expect("raised"), Signal::SIGUSR1 as i32);
        assert_eq!(
            next(&signals).expect_err("read").kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
