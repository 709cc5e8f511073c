//! A machine that grows while it runs: the VMM makes processors and memory, and the guest takes them into use.

use std::{io, time::Duration};

use bulkhead_vmm::control::{Request, Response};
use tokio::time::timeout;

use super::{Agent, AgentError, Demand, VmmControl};

/// How long a guest may take to take the next piece of memory into use.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a machine did not grow.
#[derive(Debug, thiserror::Error)]
pub enum GrowthError {
    /// The VMM does not answer.
    #[error("ask the VMM for processors or memory: {0}")]
    Unanswered(#[from] io::Error),
    /// The VMM could not make them.
    #[error("the VMM: {0}")]
    Refused(String),
    /// The guest does not take them into use.
    #[error(transparent)]
    Guest(#[from] AgentError),
    /// The guest has stopped to take memory.
    #[error(
        "the guest has {present_mib} of {wanted_mib} MiB of memory, and has taken no more within {seconds} s: it may be \
         too busy, or out of memory",
        seconds = PATIENCE.as_secs()
    )]
    Stuck {
        /// What it has.
        present_mib: u32,
        /// What it is to have.
        wanted_mib: u32,
    },
}

/// How much memory a machine has, in MiB, in the VMM's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// What its guest has taken into use.
    pub present_mib: u32,
    /// What its guest is to have.
    pub wanted_mib: u32,
    /// What it can have at most.
    pub most_mib: u32,
    slot: Option<usize>,
}

/// The way to a bigger machine.
pub struct Growth {
    control: VmmControl,
    agent: Agent,
}

impl Growth {
    /// Of the machine of that VMM and that agent.
    pub fn new(control: VmmControl, agent: Agent) -> Self {
        Self { control, agent }
    }

    /// What the limits of all containers come to when those of the container of that id become `resources`, which is JSON like
    /// `linux.resources` of `config.json`.
    ///
    /// # Errors
    /// A limit that makes no sense.
    pub async fn demand(&self, id: &str, resources: Vec<u8>) -> Result<Demand, GrowthError> {
        Ok(self.agent.sum_limits(id, resources).await?)
    }

    /// Sees to it that there are `count` processors, or as many as there can be. There are never fewer than before.
    ///
    /// # Errors
    /// The host has no room for them, or the guest does not start one.
    pub async fn processors(&self, count: u32) -> Result<(), GrowthError> {
        if count <= 1 {
            return Ok(());
        }
        let count = u8::try_from(count).unwrap_or(u8::MAX);
        match self.control.ask(&Request::AddVcpus { count }).await? {
            Response::VcpusAdded { count } => Ok(self.agent.online_processors(count).await?),
            other => Err(refusal(other)),
        }
    }

    /// How much memory there is.
    ///
    /// # Errors
    /// The VMM does not answer.
    pub async fn memory(&self) -> Result<MachineMemory, GrowthError> {
        self.ask_for_memory(&Request::Memory {}).await
    }

    /// Sees to it that there are `mib` MiB of memory, or as much as there can be. There is never less than before. Returns
    /// when the guest has it.
    ///
    /// # Errors
    /// The VMM has no room for it, or the guest does not take it into use.
    pub async fn add_memory(&self, mib: u32) -> Result<(), GrowthError> {
        let mut memory = self.ask_for_memory(&Request::AddMemory { mib }).await?;
        let wanted_mib = memory.wanted_mib.min(mib);
        if let Some(slot) = memory.slot {
            self.agent.plug_memory(slot).await?;
        }
        while memory.present_mib < wanted_mib {
            let known_mib = memory.present_mib;
            let request = Request::AwaitMemory { known_mib };
            memory = match timeout(PATIENCE, self.ask_for_memory(&request)).await {
                Ok(answer) => answer?,
                Err(_) => memory,
            };
            if memory.present_mib <= known_mib {
                return Err(GrowthError::Stuck {
                    present_mib: memory.present_mib,
                    wanted_mib,
                });
            }
        }
        Ok(())
    }

    async fn ask_for_memory(&self, request: &Request) -> Result<MachineMemory, GrowthError> {
        match self.control.ask(request).await? {
            Response::Memory {
                present_mib,
                wanted_mib,
                most_mib,
                slot,
            } => Ok(MachineMemory {
                present_mib,
                wanted_mib,
                most_mib,
                slot,
            }),
            other => Err(refusal(other)),
        }
    }
}

fn refusal(response: Response) -> GrowthError {
    GrowthError::Refused(match response {
        Response::Error { message } => message,
        other => format!("{other:?} is no answer"),
    })
}
