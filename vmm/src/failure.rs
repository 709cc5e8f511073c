//! An error with the stage at which it happened.

use std::error::Error;

use crate::report::{Outcome, Stage};

/// Why the VMM gave up.
#[derive(Debug)]
pub struct Failure {
    /// What it was doing.
    pub stage: Stage,
    /// What went wrong, with its causes.
    pub message: String,
}

impl From<Failure> for Outcome {
    fn from(Failure { stage, message }: Failure) -> Self {
        Outcome::Failed { stage, message }
    }
}

/// Says of an error at which stage it happened.
pub trait AtStage<T> {
    /// Turns the error into a [`Failure`] of that stage.
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T, E: Error> AtStage<T> for Result<T, E> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            stage,
            message: with_causes(&error),
        })
    }
}

/// The error's text and those of its causes, separated by colons.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::kvm::KvmError;

    #[test]
    fn causes_are_part_of_the_message() {
        let error = KvmError::Call("KVM_CREATE_VM", io::Error::from_raw_os_error(libc::EBUSY));
        let failure = Err::<(), _>(error).at(Stage::Kvm).unwrap_err();
        assert_eq!(failure.stage, Stage::Kvm);
        assert_eq!(
            failure.message,
            "KVM_CREATE_VM failed: Device or resource busy (os error 16)"
        );
    }
}
