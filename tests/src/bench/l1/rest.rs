//! Waits until the host's processor has nothing to do.

use std::time::{Duration, Instant};
use std::{fs, io, thread};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// How often and for how long the processor is looked at, to see whether it idles.
const LOOKS: usize = 20;
pub const LOOK: Duration = Duration::from_millis(40);

/// Lets the kernel do what the run before has left to it, and has every run begin at the same point between two ticks of
/// its timer.
///
/// # Errors
/// As [`rest`].
pub fn settle() -> io::Result<()> {
    for _ in 0..LOOKS {
        rest()?;
        if idles_during(sleep_until_the_next_second_but_one)? {
            return Ok(());
        }
    }
    Err(restless())
}

/// Waits until the processor idles.
///
/// # Errors
/// `TimedOut` if something does not come to rest.
pub fn rest() -> io::Result<()> {
    for _ in 0..LOOKS {
        let rests = idles_during(|| {
            thread::sleep(LOOK);
            Ok(())
        })?;
        if rests {
            return Ok(());
        }
    }
    Err(restless())
}

fn restless() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "something does not come to rest")
}

/// Whether the processor idles for at least half of the time.
fn idles_during(wait: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let (start, before) = (Instant::now(), idle()?);
    wait()?;
    Ok(idle()? - before > start.elapsed() / 2)
}

/// How long the processor has idled since the start (proc_uptime(5)).
fn idle() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let idle = text
        .split_whitespace()
        .nth(1)
        .and_then(|seconds| seconds.parse().ok());
    idle.map(Duration::from_secs_f64)
        .ok_or_else(|| io::Error::other(format!("/proc/uptime: {text}")))
}

fn sleep_until_the_next_second_but_one() -> io::Result<()> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let then = TimeSpec::new(now.tv_sec() + 2, 0);
    clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &then,
    )?;
    Ok(())
}
