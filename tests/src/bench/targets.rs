//! What the figures are to be.

use super::experiments::{io, rows, subjects};
use super::sizes;

/// The most that a figure of bulkhead's is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// In its own unit.
    AtMost(f64),
    /// So many times what it is of that subject, in the same run.
    Times(f64, &'static str),
}

/// The target of a row, if it has one.
pub fn of(row: &str) -> Option<Target> {
    TARGETS
        .iter()
        .find(|(name, _)| *name == row)
        .map(|(_, target)| *target)
}

const TARGETS: &[(&str, Target)] = &[
    (rows::FLOOR, Target::AtMost(3.5)),
    (rows::EXIT, Target::AtMost(3.5)),
    (rows::INIT, Target::AtMost(25.0)),
    (rows::READY, Target::AtMost(28.0)),
    (rows::RUN, Target::Times(0.6, subjects::RUNC)),
    (rows::EXEC, Target::Times(1.0, subjects::CRUN)),
    (rows::TASK, Target::Times(1.0, subjects::RUNC)),
    ("VMM, agent ready: host's side, PSS", Target::AtMost(3.5)),
    ("VMM, agent ready: host's side, anonymous", Target::AtMost(0.28)),
    ("VMM, agent ready: guest's RAM touched", Target::AtMost(16.0)),
    ("an idle pod, the 10th of 10: all", Target::AtMost(30.0)),
    (sizes::VMM, Target::AtMost(3.0)),
    (sizes::AGENT, Target::AtMost(2.0)),
    (io::rows::DISK_READ, Target::Times(0.9, subjects::QEMU)),
    (io::rows::DISK_WRITE, Target::Times(0.9, subjects::QEMU)),
    (io::rows::DISK_RANDOM_READ, Target::Times(0.9, subjects::QEMU)),
    (io::rows::DISK_RANDOM_WRITE, Target::Times(0.9, subjects::QEMU)),
    (io::rows::RANDOM_READ_CACHED, Target::Times(1.3, subjects::RUNC)),
    (io::rows::WALK, Target::Times(4.0, subjects::RUNC)),
];
