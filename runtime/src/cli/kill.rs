//! `bulkhead kill`

use std::process::ExitCode;

use clap::Args;

use super::{Error, Global, Status, event_loop};
use crate::{
    sandbox::{Agent, AgentError, GuestSocket, State, Status as ContainerStatus},
    signals,
};

/// Send a signal to a container's first process
#[derive(Debug, Args)]
pub struct Kill {
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
    /// Name or number; 0 sends none, and tells by the exit code whether the container runs
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

impl Kill {
    pub fn execute(self, global: &Global) -> Status {
        let (_, state) = global.container(self.id)?;
        let signal = signals::parse(&self.signal).ok_or(Error::UnknownSignal(self.signal))?;
        match state.current_status() {
            ContainerStatus::Created | ContainerStatus::Running | ContainerStatus::Paused => {}
            // Nothing is left that a signal could reach.
            ContainerStatus::Stopped if self.all => return Ok(ExitCode::SUCCESS),
            _ => return Err(Error::NotRunning),
        }
        send(global, &state, signal, self.all)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Sends a signal to the first process of a container, or to `all` of them.
pub fn send(global: &Global, state: &State, signal: u32, all: bool) -> Result<(), Error> {
    let guest = GuestSocket::of(&global.folder(&state.sandbox)?)?;
    let runtime = event_loop()?;
    let sent = runtime.block_on(async {
        let agent = Agent::connect(&guest).await?;
        agent.signal(state.id.as_str(), signal, all).await
    });
    match sent {
        Ok(()) => Ok(()),
        // It has ended meanwhile, and its guest perhaps with it.
        Err(AgentError::Lost(_)) => Err(Error::NotRunning),
        Err(error) => Err(error.into()),
    }
}
