//! A further process in a container: its stand-in on the host has it run, carries its streams, and ends as it did.
//!
//! The stand-in is the process that the caller started, or with `--detach` one that is forked for it.

mod detached;
mod foreground;

use std::{io, time::SystemTime};

use bulkhead_agent_protocol::messages::WaitResponse;
use rustix::termios::Winsize;

use tokio::net::UnixStream;

use super::{
    Streams,
    monitor::Signals,
    streams::{Copying, OutputError, name as stream_name, open as open_stream},
};
use crate::{
    sandbox::{Agent, AgentError, AppArmorProfile, CgroupError, Exit, Further, GuestSocket, NewProcess},
    signals,
};
pub use detached::Detached;
pub use foreground::Foreground;

/// The stream that carries nothing.
const LIFELINE: &str = "lifeline";

/// What is to be run.
pub struct Exec {
    /// The container.
    pub container: String,
    /// What the agent is to call the process, unique in the container; none: anything.
    pub id: Option<String>,
    /// The process object, JSON.
    pub process: Vec<u8>,
    /// The cgroup that it is to be in, relative to the container's; empty: the container's own.
    pub cgroup: String,
    /// The AppArmor profile that the guest is to be given for it.
    pub profile: Option<AppArmorProfile>,
}

/// Why a process does not run, or how it was lost.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The agent said why.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A stream to the guest could not be opened.
    #[error("a stream to the guest: {0}")]
    Stream(io::Error),
    /// The container's cgroup on the host cannot be opened.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The operating system said no.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// Standard input is something else.
    #[error("the process is to have a terminal (--tty), but standard input is not one")]
    NotATerminal,
    /// The stand-in could not have it run.
    #[error("{0}")]
    Standin(String),
    /// The stand-in was killed.
    #[error("the process's stand-in ended before the program ran")]
    StandinEnded,
    /// The virtual machine has gone.
    #[error("the virtual machine ended before the program did")]
    Lost,
    /// What the program wrote.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl ExecError {
    fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

/// A process whose program runs.
struct Running {
    process: Further,
    copying: Copying,
    /// The guest kills the process when this is closed: it goes with its stand-in.
    lifeline: UnixStream,
}

/// What is left when a process has ended.
struct Ended {
    process: Further,
    copying: Copying,
    exit: Exit,
    /// Processes that it has left behind still have its output open.
    is_output_held: bool,
}

impl Exec {
    /// Has the program executed. `window` is the first size of its terminal, if it is to have one; `ready` is done when
    /// everything is connected, before the program can use it.
    async fn start(
        self,
        guest: &GuestSocket,
        window: Option<Winsize>,
        ready: impl FnOnce() -> io::Result<()>,
    ) -> Result<Running, ExecError> {
        let streams = async { Streams::connect(guest, window).await.map_err(ExecError::Stream) };
        let lifeline = async { open_stream(guest, LIFELINE).await.map_err(ExecError::Stream) };
        let agent = async { Ok(Agent::connect(guest).await?) };
        let (streams, lifeline, agent) = tokio::try_join!(streams, lifeline, agent)?;
        ready().map_err(ExecError::system("take the terminal over"))?;
        let new = NewProcess {
            container: self.container,
            id: self.id.unwrap_or_else(unique_id),
            process: self.process,
            cgroup: self.cgroup,
            lifeline: stream_name(LIFELINE),
        };
        if let Some(profile) = self.profile {
            agent.load_profile(profile).await?;
        }
        let process = agent.exec(new, streams.description()).await?;
        let copying = streams.copy().map_err(ExecError::system("copy streams"))?;
        Ok(Running {
            process,
            copying,
            lifeline,
        })
    }
}

/// Unlike that of any other process of a container, also when a pid of the host's is used again.
fn unique_id() -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

impl Running {
    /// Waits for the process's end, and passes signals on to it meanwhile; the terminal's change of size becomes the guest's.
    async fn wait(self, signals: &Signals, window: impl Fn() -> Option<Winsize>) -> Result<Ended, ExecError> {
        let end = {
            let end = self.process.wait();
            tokio::pin!(end);
            loop {
                tokio::select! {
                    biased;
                    end = &mut end => break end,
                    signal = signals.next() => {
                        let signal = signal.map_err(ExecError::system("wait for signals"))?;
                        self.pass_on(signal, window()).await;
                    }
                }
            }
        };
        let end = end.map_err(|_| ExecError::Lost)?;
        drop(self.lifeline);
        Ok(Ended {
            exit: exit_of(&end),
            is_output_held: end.output_held,
            process: self.process,
            copying: self.copying,
        })
    }

    async fn pass_on(&self, signal: i32, window: Option<Winsize>) {
        let passed = match (signal, window) {
            (signals::WINDOW_CHANGED, None) => Ok(()),
            (signals::WINDOW_CHANGED, Some(size)) => {
                self.process.resize(size.ws_row.into(), size.ws_col.into()).await
            }
            _ => self.process.signal(signal.unsigned_abs()).await,
        };
        if let Err(error) = passed {
            tracing::debug!(signal, %error, "signal not passed on");
        }
    }
}

impl Ended {
    /// Waits until the last byte of output has been passed on, and has the agent forget the process.
    async fn drain(self) -> Result<(), ExecError> {
        self.copying.drained().await?;
        // A stream ends with its guest, too, and is then not whole. A guest that still answers has sent it all.
        match self.process.delete().await {
            Err(AgentError::Lost(_)) if self.exit != KILLED => Err(ExecError::Lost),
            _ => Ok(()),
        }
    }
}

/// How a process ends that goes down with its container.
const KILLED: Exit = Exit::Signal(libc::SIGKILL);

fn exit_of(end: &WaitResponse) -> Exit {
    match i32::try_from(end.signal) {
        Ok(0) => Exit::Code(i32::try_from(end.exit_code).unwrap_or(i32::MAX)),
        Ok(signal) => Exit::Signal(signal),
        Err(_) => KILLED,
    }
}

/// What a stand-in runs in.
fn event_loop() -> Result<tokio::runtime::Runtime, ExecError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(ExecError::system("make an event loop"))
}
