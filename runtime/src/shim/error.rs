//! Why containerd is refused something, with the code by which it tells refusals apart.

use std::io;

use ttrpc::{Code, get_status};

use super::{rootfs::RootfsError, standin::CommandError, streams::StreamError};
use crate::{
    container::control::ControlError,
    oci::FieldError,
    sandbox::{AgentError, CgroupError, IdError, StateError},
};

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such task.
    #[error("task {0} not found")]
    NoTask(String),
    /// There is no such process.
    #[error("process {process} of task {task} not found")]
    NoProcess {
        /// The task.
        task: String,
        /// The process.
        process: String,
    },
    /// The name is taken.
    #[error("{0} already exists")]
    Exists(String),
    /// The process has ended.
    #[error("process already finished: {0}")]
    Finished(String),
    /// Not in this state.
    #[error("cannot {action} {what} that is {status}")]
    Status {
        /// What was asked for.
        action: &'static str,
        /// Of what.
        what: String,
        /// Its state.
        status: &'static str,
    },
    /// A signal that does not exist.
    #[error("signal {0} does not exist: 1 to 64 do")]
    Signal(u32),
    /// There is no terminal.
    #[error("{0} has no terminal")]
    NoTerminal(String),
    /// What containerd gave cannot be understood.
    #[error("{what}: {problem}")]
    Invalid {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Not there yet.
    #[error("{0}: there are no snapshots of virtual machines yet, which this is to be done by")]
    NoSnapshots(&'static str),
    /// The container's name.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A field of the configuration.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The root file system.
    #[error("rootfs: {0}")]
    Rootfs(#[from] RootfsError),
    /// A stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A command of ours.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The container's monitor.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The guest.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The container's record.
    #[error(transparent)]
    State(#[from] StateError),
    /// The sandbox's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The operating system.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What came of it.
        source: io::Error,
    },
}

impl Error {
    /// An error of the operating system's.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action: action.into(),
            source,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::NoTask(_)
            | Self::NoProcess { .. }
            | Self::Finished(_)
            | Self::State(StateError::Missing(_)) => Code::NOT_FOUND,
            Self::Exists(_) | Self::State(StateError::Exists(_)) => Code::ALREADY_EXISTS,
            Self::Status { .. }
            | Self::NoTerminal(_)
            | Self::Control(ControlError::NotRunning | ControlError::NotPaused) => Code::FAILED_PRECONDITION,
            Self::Signal(_)
            | Self::Invalid { .. }
            | Self::Id(_)
            | Self::Field(_)
            | Self::Stream(StreamError::Name(_) | StreamError::Input(_)) => Code::INVALID_ARGUMENT,
            Self::NoSnapshots(_) => Code::UNIMPLEMENTED,
            Self::Agent(AgentError::Lost(_)) | Self::Control(ControlError::Broken(_)) => Code::UNAVAILABLE,
            _ => Code::UNKNOWN,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(get_status(error.code(), error.to_string()))
    }
}
