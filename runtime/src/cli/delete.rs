//! `bulkhead delete`

use std::process::ExitCode;

use clap::Args;

use super::{Global, Status};
use crate::{
    container::remove,
    sandbox::{Id, StateError},
};

/// Remove what a container has left
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill the container if it runs; a container that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

impl Delete {
    pub fn execute(self, global: &Global) -> Status {
        let folder = match global.folder(&Id::try_from(self.id)?) {
            Err(StateError::Missing(_)) if self.force => return Ok(ExitCode::SUCCESS),
            folder => folder?,
        };
        Ok(if remove(&folder, self.force)? {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
