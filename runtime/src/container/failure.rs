//! A failure with the name of the stage in which it happened.

use std::fmt;

use super::{
    monitor::{NetworkError, RoomError},
    streams::OutputError,
};
use crate::sandbox::{
    AppArmorError, AttachError, DiskError, EvictionError, MachineError, StartError, StateError, StorageError,
};

/// The stages of a container's life on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Making what the monitor itself needs.
    Prepare,
    /// Making the shared folder and its mounts.
    PrepareStorage,
    /// Starting the VMM.
    StartVmm,
    /// Waiting for the guest's agent.
    BootGuest,
    /// Having the agent build the container.
    CreateContainer,
    /// Having the agent execute the program.
    StartContainer,
    /// Joining the guest to the network namespace's interfaces.
    AttachNetwork,
    /// The program runs.
    RunContainer,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::PrepareStorage => "prepare storage",
            Self::StartVmm => "start VMM",
            Self::BootGuest => "boot guest",
            Self::CreateContainer => "create container",
            Self::StartContainer => "start container",
            Self::AttachNetwork => "attach network",
            Self::RunContainer => "run container",
        })
    }
}

/// What ended a container's life on the host early.
#[derive(Debug, thiserror::Error)]
#[error("{stage}: {cause}")]
pub struct Failure {
    /// When.
    pub stage: Stage,
    /// Why.
    pub cause: Cause,
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The shared folder.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The AppArmor profile.
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    /// Another container's sandbox.
    #[error(transparent)]
    Eviction(#[from] EvictionError),
    /// What the microVM is made of.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A disk that the microVM is to get while it runs.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The microVM or its agent.
    #[error(transparent)]
    Sandbox(#[from] StartError),
    /// A machine that is too small for it.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// What the workload wrote.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The operating system.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The network namespace.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The guest's ties to it.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl Failure {
    /// The last lines of the guest's console, as far as they tell something about the failure.
    pub fn console(&self) -> &[String] {
        match &self.cause {
            Cause::Sandbox(error) => error.console(),
            _ => &[],
        }
    }
}

/// Names the stage of an error.
pub trait In<T> {
    /// The error, if any, with its stage.
    fn in_stage(self, stage: Stage) -> Result<T, Failure>;
}

impl<T, E: Into<Cause>> In<T> for Result<T, E> {
    fn in_stage(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            stage,
            cause: error.into(),
        })
    }
}
