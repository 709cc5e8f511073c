//! What the two sides make of config.json: every field with the side that honours it, or the reason why it is refused;
//! and the words that lists of the specification are made of.
//!
//! The host's side refuses, before anything is started; the agent reads what is left. `docs/oci-compliance.md` is the
//! same table for people, with the tests.

mod cpu;
mod fields;
mod words;

pub use cpu::weight_of_shares;
pub use fields::FIELDS;
pub use words::{
    MOUNT_OPTIONS, NAMESPACES, PROPAGATIONS, RLIMITS, SECCOMP_ACTIONS, SECCOMP_ARCHITECTURES, SECCOMP_FLAGS,
    SECCOMP_OPERATORS,
};

/// A field of config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The row of `docs/oci-compliance.md` that it is in, from 1.
    pub row: u8,
    /// Its path; `[]` stands for every item of a list.
    pub path: &'static str,
    /// What becomes of it.
    pub handling: Handling,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// The host's side honours it.
    Host,
    /// The agent honours it.
    Guest,
    /// Each side does its part.
    HostAndGuest,
    /// It is refused on the host.
    Refused(Refusal),
}

/// Why, and with which values, a field is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The values that are.
    pub when: When,
    /// Why.
    pub reason: &'static str,
}

/// Which values of a field ask for what it is refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Every value but null.
    Present,
    /// Every value but null, false, zero, the empty text, and lists and objects that have nothing else in them.
    Says,
    /// An object with a member.
    HasMember,
    /// The value false.
    IsFalse,
    /// This text, or a list with it.
    Is(&'static str),
}
