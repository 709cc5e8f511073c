//! What figures are counted in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Of virtual time.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Of virtual time.
    #[serde(rename = "µs")]
    Microseconds,
    /// 1,000,000 bytes.
    #[serde(rename = "MB")]
    Megabytes,
}

impl Unit {
    /// A time in this unit.
    pub fn of_milliseconds(self, milliseconds: f64) -> f64 {
        match self {
            Self::Microseconds => milliseconds * 1e3,
            Self::Milliseconds | Self::Megabytes => milliseconds,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::Megabytes => "MB",
        })
    }
}
