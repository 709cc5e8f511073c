//! The address of an Ethernet interface.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of an Ethernet interface, written as six hexadecimal bytes with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// What is not the address of one interface.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of one Ethernet interface, as 02:00:00:00:00:01 is")]
pub struct MacError(String);

impl MacAddress {
    /// From its bytes.
    ///
    /// # Errors
    /// The address is that of a group, or all zeros.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        let address = MacAddress(bytes);
        // The lowest bit of the first byte marks the address of a group (IEEE 802).
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(MacError(address.to_string()));
        }
        Ok(address)
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let refused = || MacError(text.to_owned());
        let byte = |digits: &str| {
            let good = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            good.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let bytes = bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(refused)?;
        MacAddress::new(bytes)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> String {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_bytes_agree(bytes: [u8; 6]) {
            if let Ok(address) = MacAddress::new(bytes) {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "[0-9a-fA-F:+-]{0,20}") {
            if let Ok(address) = text.parse::<MacAddress>() {
                prop_assert_eq!(address.to_string(), text.to_lowercase());
            }
        }
    }

    #[test]
    fn groups_and_what_is_no_address_are_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            text.parse::<MacAddress>().unwrap_err();
        }
    }
}
