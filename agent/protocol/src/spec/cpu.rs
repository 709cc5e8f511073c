//! Processor time of config.json in the terms of cgroup v2, which the host and the guest both limit by.

/// The value of `cpu.weight` for `linux.resources.cpu.shares`.
///
/// Version 1 counts shares from 2 to 262144 around 1024, version 2 weights from 1 to 10000 around 100: a curve through
/// these three points.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 100, 10_000]);
        assert_eq!([0, u64::MAX].map(weight_of_shares), [1, 10_000]);
        assert!(weight_of_shares(2048) > weight_of_shares(1024));
    }
}
