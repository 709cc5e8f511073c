//! Lists of processors or memory nodes, as `cpuset(7)` writes them: `0-3,7`.

use std::{fmt, str::FromStr};

/// The highest number that is taken: the kernel is never built for more processors.
const MAX: u32 = 8191;

/// A list of processors or memory nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList {
    text: String,
    /// Bit n of byte n/8 stands for number n.
    mask: Vec<u8>,
}

/// Why a text is not such a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a list of numbers up to {MAX} and ranges, such as \"0-3,7\"")]
pub struct CpuListError;

impl CpuList {
    /// As systemd takes it.
    pub fn mask(&self) -> &[u8] {
        &self.mask
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let text = text.trim();
        let number = |text: &str| {
            let is_plain = text.bytes().all(|b| b.is_ascii_digit());
            let number = is_plain.then(|| text.parse().ok()).flatten();
            number.filter(|&number: &u32| number <= MAX).ok_or(CpuListError)
        };
        let mut mask = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(CpuListError);
            }
            for n in first..=last {
                let (byte, bit) = ((n / 8) as usize, n % 8);
                if mask.len() <= byte {
                    mask.resize(byte + 1, 0);
                }
                if let Some(byte) = mask.get_mut(byte) {
                    *byte |= 1 << bit;
                }
            }
        }
        Ok(Self {
            text: text.to_owned(),
            mask,
        })
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_ranges_are_a_mask() {
        let mask = |text: &str| text.parse::<CpuList>().map(|list| list.mask);
        assert_eq!(mask("0"), Ok(vec![1]));
        assert_eq!(mask("0-3,7"), Ok(vec![0b1000_1111]));
        assert_eq!(mask("9,1\n"), Ok(vec![2, 2]));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "a",
            "1-",
            "-1",
            "3-1",
            "1,,2",
            "+1",
            "0-8192",
            "99999999999",
            "0 1",
        ] {
            assert_eq!(text.parse::<CpuList>(), Err(CpuListError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_a_list_or_an_error(text in "[0-9,-]{0,12}|.{0,8}") {
            if let Ok(list) = text.parse::<CpuList>() {
                prop_assert!(list.mask.iter().any(|byte| *byte != 0));
                prop_assert_eq!(list.to_string(), text.trim());
            }
        }
    }
}
