//! This machine's time stamp counter, which an emulated CPU has for its own.

use std::arch::x86_64::_rdtsc;
use std::thread;
use std::time::{Duration, Instant};

/// How often it ticks, in kHz.
pub fn frequency_khz() -> u128 {
    // What two readings are off by is some microseconds.
    const SPAN: Duration = Duration::from_millis(50);
    let (began, first) = read();
    thread::sleep(SPAN);
    let (ended, last) = read();
    u128::from(last.wrapping_sub(first)) * 1_000_000 / (ended - began).as_nanos().max(1)
}

/// The time and the counter, read without an interruption if there is ever none.
fn read() -> (Instant, u64) {
    const TRIES: usize = 100;
    let readings = (0..TRIES).map(|_| {
        let before = Instant::now();
        // SAFETY: every x86-64 has the counter, and Linux lets everybody read it.
        let counter = unsafe { _rdtsc() };
        (before.elapsed(), before, counter)
    });
    let (_, time, counter) = readings.min().expect("more than none");
    (time, counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequency_is_the_same_each_time() {
        let (first, second) = (frequency_khz(), frequency_khz());
        assert!(first > 100_000, "{first}");
        assert!(first.abs_diff(second) * 100 < first, "{first} and {second}");
    }
}
