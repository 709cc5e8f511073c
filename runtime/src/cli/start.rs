//! `bulkhead start`

use std::process::ExitCode;

use clap::Args;

use super::{Error, Global, Status, kill};
use crate::{
    container::{
        control::{Request, ask},
        hooks::{self, Point},
    },
    sandbox::Status as ContainerStatus,
};

/// The signal that nothing survives.
const KILL: u32 = libc::SIGKILL.unsigned_abs();

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
        if let Err(failure) = hooks::run(Point::Poststart, &hooks::of(&folder), &state) {
            if let Err(error) = kill::send(global, &state, KILL, true) {
                tracing::warn!(%error, "container not stopped");
            }
            return Err(failure.into());
        }
        Ok(ExitCode::SUCCESS)
    }
}
