//! `bulkhead pause`

use std::process::ExitCode;

use clap::Args;

use super::{Error, Global, Status};
use crate::{
    container::control::{Request, ask},
    sandbox::Status as ContainerStatus,
};

/// Freeze every process of a container
#[derive(Debug, Args)]
pub struct Pause {
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

impl Pause {
    pub fn execute(self, global: &Global) -> Status {
        let (folder, state) = global.container(self.id)?;
        match state.current_status() {
            ContainerStatus::Created | ContainerStatus::Running => ask(&folder, &Request::Pause {})?,
            _ => return Err(Error::NotRunning),
        }
        Ok(ExitCode::SUCCESS)
    }
}
