//! The requests that a container's monitor takes on its socket, `monitor.sock` in the state folder.
//!
//! One JSON document a line in each direction; a request is answered before the next one of the same client is read.
//! The monitor is the only writer of the container's record, so whoever changes the container's status asks it.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sandbox::StateFolder;

/// The longest request or answer in bytes, with its line end.
pub const LONGEST_LINE: u64 = 1 << 20;

/// What can be asked of a monitor. Requests without fields have braces all the same: serde would let a unit variant
/// have unknown fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Open the container's start gate. Answered when the program has been executed.
    Start {},
    /// Freeze every process of the container. Answered when all stand still.
    Pause {},
    /// Let every process of the paused container go on.
    Resume {},
    /// Change limits of the container.
    Update {
        /// Like `linux.resources` of `config.json`; what it does not say stays.
        resources: Value,
    },
}

/// What a monitor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// It is done.
    Done {},
    /// It could not be done.
    Error {
        /// Why.
        message: String,
    },
}

/// Why a request to a monitor was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody takes requests: the container has ended, or is still being created.
    #[error("container not running")]
    NotRunning,
    /// There is nothing to resume.
    #[error("container not paused")]
    NotPaused,
    /// The monitor said why.
    #[error("{0}")]
    Refused(String),
    /// The connection broke, or carried something else.
    #[error("the container's monitor did not answer: {0}")]
    Broken(io::Error),
}

/// Asks the monitor of the container whose folder it is, and waits for its answer.
///
/// # Errors
/// See [`ControlError`].
pub fn ask(folder: &StateFolder, request: &Request) -> Result<(), ControlError> {
    let mut stream = folder
        .connect(StateFolder::MONITOR)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning,
            _ => ControlError::Broken(error),
        })?;
    let exchange = || -> io::Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream.take(LONGEST_LINE)).read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    };
    match exchange().map_err(ControlError::Broken)? {
        Response::Done {} => Ok(()),
        Response::Error { message } => Err(ControlError::Refused(message)),
    }
}
