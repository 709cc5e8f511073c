//! The signals that are passed on to the workload.

use std::{io, os::fd::OwnedFd, str::FromStr};

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

/// Those by which a person or a supervisor ends a program.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// The number of `SIGWINCH`: the terminal has another size.
pub const WINDOW_CHANGED: i32 = Signal::SIGWINCH as i32;

/// The size of a `signalfd_siginfo`, which begins with the signal's number (signalfd(2)).
const SIGINFO: usize = 128;

/// Holds the signals back and makes them readable, without blocking.
///
/// # Errors
/// No file descriptors left.
pub fn take() -> io::Result<OwnedFd> {
    hold_back(&PASSED_ON)
}

/// Like [`take`], for those alone that are to end the calling process. What has been taken as well is readable on both
/// until it is read on one.
///
/// # Errors
/// No file descriptors left.
pub fn take_ending() -> io::Result<OwnedFd> {
    hold_back(&ENDING)
}

fn hold_back(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set: SigSet = signals.iter().copied().collect();
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

/// The first and the last real-time signal, as the C library counts them: it keeps the kernel's first two for itself.
const REAL_TIME: (u32, u32) = (34, 64);

/// A signal's number by its number or its name, with or without `SIG`, in any case; real-time signals are `RTMIN+n` and
/// `RTMAX-n`. 0 is none, which nobody gets, and is an error only where there is nobody (kill(2)).
pub fn parse(text: &str) -> Option<u32> {
    let (first, last) = REAL_TIME;
    if let Ok(number) = text.parse::<u32>() {
        return (0..=last).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = if let Some(above) = name.strip_prefix("RTMIN") {
        let above = above
            .strip_prefix('+')
            .map_or((above.is_empty()).then_some(0), |n| n.parse().ok());
        first.checked_add(above?)?
    } else if let Some(below) = name.strip_prefix("RTMAX") {
        let below = below
            .strip_prefix('-')
            .map_or((below.is_empty()).then_some(0), |n| n.parse().ok());
        last.checked_sub(below?)?
    } else {
        return Signal::from_str(&format!("SIG{name}"))
            .ok()
            .map(|signal| signal as u32);
    };
    (first..=last).contains(&real_time).then_some(real_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_number_and_by_name() {
        for (text, number) in [
            ("0", 0),
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("WINCH", 28),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in [
            "", "65", "-9", "BLA", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "RTMIN3",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

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
