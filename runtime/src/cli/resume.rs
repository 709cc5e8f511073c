//! `bulkhead resume`

use std::process::ExitCode;

use clap::Args;

use super::{Global, Status};
use crate::{
    container::control::{ControlError, Request, ask},
    sandbox::Status as ContainerStatus,
};

/// Let every process of a paused container go on
#[derive(Debug, Args)]
pub struct Resume {
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

impl Resume {
    pub fn execute(self, global: &Global) -> Status {
        let (folder, state) = global.container(self.id)?;
        match state.current_status() {
            ContainerStatus::Paused => ask(&folder, &Request::Resume {})?,
            _ => return Err(ControlError::NotPaused.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
