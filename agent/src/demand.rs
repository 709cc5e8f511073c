//! What limits of containers come to: what a machine needs, for containers to use them up.

use std::iter::Sum;

/// What one container may use, or several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Processors.
    pub processors: u32,
    /// Memory in bytes.
    pub memory: u64,
}

impl Demand {
    /// Of a container, by the files of its cgroup. What is not limited counts nothing.
    pub fn of(read: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            processors: read("cpu.max").map_or(0, |limit| used_up_by(&limit)),
            memory: read("memory.max").map_or(0, |limit| limit.trim().parse().unwrap_or(0)),
        }
    }
}

impl Sum for Demand {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            processors: sum.processors.saturating_add(one.processors),
            memory: sum.memory.saturating_add(one.memory),
        })
    }
}

/// How many processors a limit as `cpu.max` has it can use up; none if it is no limit.
fn used_up_by(limit: &str) -> u32 {
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

    fn demand(cpu: &str, memory: &str) -> Demand {
        Demand::of(|file| match file {
            "cpu.max" => Some(cpu.to_owned()),
            "memory.max" => Some(memory.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn a_quota_uses_up_whole_processors() {
        assert_eq!(used_up_by("50000 100000\n"), 1);
        assert_eq!(used_up_by("100001 100000\n"), 2);
        assert_eq!(used_up_by("max 100000\n"), 0);
        assert_eq!(used_up_by("5 0"), 0);
        assert_eq!(used_up_by(""), 0);
        assert_eq!(used_up_by("18446744073709551615 1"), u32::MAX);
    }

    #[test]
    fn limits_add_up_and_no_limit_is_nothing() {
        let all = [
            demand("50000 100000\n", "1048576\n"),
            demand("150000 100000\n", "max\n"),
            demand("max 100000\n", "4096"),
            Demand::of(|_| None),
        ];
        let sum: Demand = all.into_iter().sum();
        assert_eq!((sum.processors, sum.memory), (3, 1_052_672));
        let most = demand("18446744073709551615 1", "18446744073709551615");
        assert_eq!([most, most].into_iter().sum::<Demand>(), most);
    }
}
