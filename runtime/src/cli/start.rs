//! `bulkhead start`

use std::process::ExitCode;

use clap::Args;

use super::{Error, Global, Status};
use crate::{
    container::control::{Request, ask},
    sandbox::Status as ContainerStatus,
};

/// Start the program of a created container
#[derive(Debug, Args)]
pub struct Start {
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

impl Start {
    pub fn execute(self, global: &Global) -> Status {
        let (folder, state) = global.container(self.id)?;
        match state.current_status() {
            ContainerStatus::Created => ask(&folder, &Request::Start {})?,
            ContainerStatus::Running => return Err(Error::Running),
            ContainerStatus::Stopped => return Err(Error::Stopped),
            status => return Err(Error::NotCreated(status)),
        }
        Ok(ExitCode::SUCCESS)
    }
}
