//! The names of sandboxes and containers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A sandbox's or container's id: 1 to [`Id::MAX_LEN`] letters, digits, `_`, `+`, `-`, `,` and `.`, but not `.` or `..`.
/// It is safe as the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// The longest id, so that it is a file name and leaves room for a suffix.
    pub const MAX_LEN: usize = 240;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It has no character.
    #[error("invalid container ID format: it is empty")]
    Empty,
    /// It has too many characters.
    #[error("invalid container ID format: {0} characters are more than the {max} allowed", max = Id::MAX_LEN)]
    TooLong(usize),
    /// It has a character that an id may not have, or is a name with a meaning of its own.
    #[error(
        "invalid container ID format: {0:?}; letters, digits and _ + - , . are allowed, and not . or .. alone"
    )]
    Forbidden(String),
}

impl TryFrom<String> for Id {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-,.".contains(&b);
        match text.as_str() {
            "" => Err(IdError::Empty),
            long if long.len() > Self::MAX_LEN => Err(IdError::TooLong(long.chars().count())),
            "." | ".." => Err(IdError::Forbidden(text)),
            other if !other.bytes().all(allowed) => Err(IdError::Forbidden(text)),
            _ => Ok(Self(text)),
        }
    }
}

impl std::str::FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_callers_use_are_ids() {
        for text in [
            "a",
            "0",
            "web-1",
            "a_b+c,d.e",
            "...",
            &"f".repeat(64),
            &"x".repeat(240),
        ] {
            assert!(text.parse::<Id>().is_ok(), "{text}");
        }
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a b",
            "ä",
            "a\n",
            "a\0",
            &"x".repeat(241),
            &"x".repeat(300),
        ] {
            assert!(text.parse::<Id>().is_err(), "{text:?}");
        }
    }
}
