//! What a request can be refused with.

use thiserror::Error;
use ttrpc::{Code, get_status};

use crate::{container::spec::SpecError, failure::Failure};

/// Why a request was not done. Nothing has changed then.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The container's or the process's description is wrong, or asks for what the agent cannot do.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A field of the request itself is wrong.
    #[error("{0}")]
    Request(String),
    /// No container of that id.
    #[error("container \"{0}\" does not exist")]
    NoContainer(String),
    /// No process of that id in the container.
    #[error("process \"{process}\" does not exist in container \"{container}\"")]
    NoProcess {
        /// The container's id.
        container: String,
        /// The process's id.
        process: String,
    },
    /// The id is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// The container or process is not in the state that the request needs.
    #[error("{0}")]
    State(String),
    /// The host has not opened a stream that the request names.
    #[error("stream \"{0}\" has not been opened")]
    NoStream(String),
    /// A step of the work failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        let code = match error {
            AgentError::Spec(_) | AgentError::Request(_) => Code::INVALID_ARGUMENT,
            AgentError::NoContainer(_) | AgentError::NoProcess { .. } => Code::NOT_FOUND,
            AgentError::Exists(_) => Code::ALREADY_EXISTS,
            AgentError::State(_) => Code::FAILED_PRECONDITION,
            AgentError::NoStream(_) => Code::DEADLINE_EXCEEDED,
            AgentError::Failed(_) => Code::ABORTED,
        };
        Self::RpcStatus(get_status(code, error.to_string()))
    }
}
