//! A guest's processors, of which more can come while it runs.

use std::io;

use bulkhead_vmm::control::{Request, Response};

use super::{Agent, AgentError, VmmControl};

/// Why a guest got no more processors.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorsError {
    /// The VMM does not answer.
    #[error("ask the VMM for processors: {0}")]
    Unanswered(#[from] io::Error),
    /// The VMM could not make them.
    #[error("the VMM: {0}")]
    Refused(String),
    /// The guest does not start them.
    #[error("{0}")]
    Guest(#[from] AgentError),
}

/// The way to more processors: the VMM makes them, and the guest takes them into use.
pub struct Processors {
    control: VmmControl,
    agent: Agent,
}

impl Processors {
    /// Those of the guest of that VMM and that agent.
    pub fn new(control: VmmControl, agent: Agent) -> Self {
        Self { control, agent }
    }

    /// Sees to it that there are `count`, or as many as there can be. There are never fewer than before.
    ///
    /// # Errors
    /// The host has no room for them, or the guest does not start one.
    pub async fn grow(&self, count: u32) -> Result<(), ProcessorsError> {
        if count <= 1 {
            return Ok(());
        }
        let count = u8::try_from(count).unwrap_or(u8::MAX);
        match self.control.ask(&Request::AddVcpus { count }).await? {
            Response::VcpusAdded { count } => Ok(self.agent.online_processors(count).await?),
            Response::Error { message } => Err(ProcessorsError::Refused(message)),
            other => Err(ProcessorsError::Refused(format!("{other:?} is no answer"))),
        }
    }
}
