//! The processes of containers, as the agent sees them.

pub mod channel;
mod credentials;
mod home;
pub mod launch;
mod program;
pub mod scheduling;
pub mod setup;
pub mod stdio;
pub mod terminal;

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process, test_kill_process},
};
use tokio::io::AsyncReadExt;

use crate::{
    error::AgentError,
    reaper::{Exit, ExitReceiver, wait_for_exit},
    streams::Stream,
};
use stdio::Outputs;
use terminal::Master;

/// A process that has been started, until it is deleted.
#[derive(Debug)]
pub struct Process {
    /// Its id in the guest.
    pub pid: Pid,
    /// Stands for it.
    pub pidfd: OwnedFd,
    /// How it ended.
    exit: ExitReceiver,
    terminal: Option<Arc<Master>>,
    outputs: Outputs,
}

impl Process {
    /// Whether, and how, it has ended.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the agent has lost track of it.
    pub async fn wait(&self) -> Result<Exit, AgentError> {
        wait_for_exit(self.exit.clone()).await
    }

    /// Waits for its end. Answers whether its output has ended with it; all that it wrote itself is through then.
    pub async fn output_ended(&self) -> bool {
        self.outputs.ended().await
    }

    /// Kills it when its host's side ends the stream.
    pub fn hang_on(self: &Arc<Self>, mut lifeline: Stream) {
        let process = Arc::downgrade(self);
        let mut exit = self.exit.clone();
        tokio::spawn(async move {
            let ended = async { while lifeline.connection.read_u8().await.is_ok() {} };
            tokio::select! {
                () = ended => {
                    if let Some(process) = process.upgrade() {
                        // It may have ended by itself.
                        let _ = process.signal(libc::SIGKILL.cast_unsigned());
                    }
                }
                _ = exit.wait_for(Option::is_some) => {}
            }
        });
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended, and when the number is no signal.
    pub fn signal(&self, number: u32) -> Result<(), AgentError> {
        if self.exit().is_some() {
            return Err(AgentError::State("the process has ended".to_owned()));
        }
        // It may have ended, but has not been collected, so its id is still its own.
        match send_signal(self.pid, number)? {
            Ok(()) => Ok(()),
            Err(errno) => Err(AgentError::State(format!("signal {number}: {errno}"))),
        }
    }

    /// Sets the size of its terminal's window, in characters.
    ///
    /// # Errors
    /// When it has no terminal.
    pub fn resize(&self, rows: u32, columns: u32) -> Result<(), AgentError> {
        let Some(terminal) = &self.terminal else {
            return Err(AgentError::State("the process has no terminal".to_owned()));
        };
        let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        terminal
            .resize(size(rows), size(columns))
            .map_err(|errno| AgentError::State(format!("resize the terminal: {errno}")))
    }
}

/// Sends a signal by its number. 0 is none, and tells whether the process is there (kill(2)).
///
/// # Errors
/// When the number is no signal.
pub fn send_signal(pid: Pid, number: u32) -> Result<Result<(), Errno>, AgentError> {
    if number == 0 {
        return Ok(test_kill_process(pid));
    }
    let wrong = || AgentError::Request(format!("{number} is no signal"));
    let number = i32::try_from(number)
        .ok()
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(wrong)?;
    // SAFETY: it is a number that kill(2) knows, and no handler of this process is concerned.
    let signal = unsafe { Signal::from_raw_unchecked(number) };
    Ok(kill_process(pid, signal))
}
