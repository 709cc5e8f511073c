//! The guest's processors, of which some may come after the start.

use std::fs;

use crate::failure::{Failure, Step};

/// Brings processors online until there are `count`: the kernel numbers them from 0, and the first one is always there.
/// One that is online already stays so.
///
/// # Errors
/// The kernel does not know that many, or one does not start.
pub fn bring_online(count: u32) -> Result<(), Failure> {
    for number in 1..count {
        let switch = format!("/sys/devices/system/cpu/cpu{number}/online");
        fs::write(switch, "1").step(|| format!("bring processor {number} online"))?;
    }
    Ok(())
}

/// How many processors a limit as `cpu.max` has it can use up; none if it is no limit.
pub fn used_up_by(limit: &str) -> u32 {
    let mut numbers = limit.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0 => {
            u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_uses_up_whole_processors() {
        assert_eq!(used_up_by("50000 100000\n"), 1);
        assert_eq!(used_up_by("100001 100000\n"), 2);
        assert_eq!(used_up_by("max 100000\n"), 0);
        assert_eq!(used_up_by("5 0"), 0);
        assert_eq!(used_up_by(""), 0);
        assert_eq!(used_up_by("18446744073709551615 1"), u32::MAX);
    }
}
