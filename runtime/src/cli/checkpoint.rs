//! `bulkhead checkpoint` and `bulkhead restore`: runc's names for what snapshots of virtual machines will do.

use clap::Args;

use super::{Error, Status};

/// Save a container's state; not there yet
#[derive(Debug, Args)]
pub struct Checkpoint {
    /// The container's name, and any options
    #[arg(value_name = "ID", trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<String>,
}

/// Restore a container from a saved state; not there yet
#[derive(Debug, Args)]
pub struct Restore {
    /// The container's name, and any options
    #[arg(value_name = "ID", trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<String>,
}

impl Checkpoint {
    pub fn execute(self) -> Status {
        Err(Error::NoSnapshots("checkpoint"))
    }
}

impl Restore {
    pub fn execute(self) -> Status {
        Err(Error::NoSnapshots("restore"))
    }
}
