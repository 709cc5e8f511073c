//! A step of setting up a container or a process that did not succeed, told in the words that users of container
//! runtimes know: `mount /proc: Permission denied`.

use std::fmt::{self, Display};

use rustix::io::Errno;

use crate::syscalls::describe;

/// The step and why it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// A failure whose whole text is given.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text of `step` and of the error.
    pub fn step(step: impl Display, errno: Errno) -> Self {
        Self(format!("{step}: {}", describe(errno)))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Names the step that an error belongs to.
pub trait Step<T> {
    /// Turns the error into a [`Failure`] of the step that the closure names.
    fn step<S: Display>(self, name: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step<S: Display>(self, name: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|errno| Failure::step(name(), errno))
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step<S: Display>(self, name: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| match Errno::from_io_error(&error) {
            Some(errno) => Failure::step(name(), errno),
            None => Failure(format!("{}: {error}", name())),
        })
    }
}
