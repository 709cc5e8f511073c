//! The host's local time.

use std::mem;

/// A point in time as the host's clocks on the wall show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Anno Domini.
    pub year: i32,
    /// From 0.
    pub month: usize,
    /// Of the month, from 1.
    pub day: i32,
    /// From 0.
    pub day_of_year: i32,
    /// From 0 to 23.
    pub hour: i32,
    /// From 0 to 59.
    pub minute: i32,
}

impl LocalTime {
    /// That many seconds after 1970-01-01 UTC; none for a year that cannot be counted.
    pub fn of(seconds: i64) -> Option<Self> {
        // SAFETY: all fields of `tm` are integers and a pointer, for which zero is valid.
        let mut time: libc::tm = unsafe { mem::zeroed() };
        // SAFETY: both pointers are to variables that live until the call has returned.
        if unsafe { libc::localtime_r(&raw const seconds, &raw mut time) }.is_null() {
            return None;
        }
        Some(Self {
            year: time.tm_year.checked_add(1900)?,
            month: usize::try_from(time.tm_mon).ok()?,
            day: time.tm_mday,
            day_of_year: time.tm_yday,
            hour: time.tm_hour,
            minute: time.tm_min,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_day() {
        let (first, second) = (LocalTime::of(1_800_000_000), LocalTime::of(1_800_086_400));
        let (first, second) = (first.expect("a date"), second.expect("a date"));
        assert_eq!(first.year, 2027);
        assert_eq!(second.day_of_year, first.day_of_year + 1);
        assert_eq!(LocalTime::of(i64::MAX), None);
    }
}
