//! Starting a sandbox: from nothing to an agent that answers.

use std::{io, os::fd::BorrowedFd, sync::Arc, time::Duration};

use bulkhead_agent_protocol::AGENT_PORT;

use super::{
    Agent, AgentError, Growth, GuestSocket, Machine, Network, SharedFolder, StateError, StateFolder, Uplink,
    Vmm, VmmControl, VmmEnd, VmmError,
    heartbeat::{Heartbeat, Pulse},
    plugged_disks::attached,
};

/// How long the VMM's end may take to be seen after that of a connection.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a guest's agent may be silent.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the guest's start.
    pub boot_seconds: u32,
    /// From then on; 0: for ever.
    pub agent_seconds: u32,
}

/// A running microVM whose agent answers. When its owner drops it, the microVM is killed.
pub struct Sandbox {
    /// None if it is another monitor's, or has been killed.
    vmm: Option<Vmm>,
    heartbeat: Heartbeat,
    /// Whether the guest has to write back before its end.
    is_written: bool,
    /// Whether it can have got disks since its start.
    gets_disks: bool,
    agent: Agent,
    control: VmmControl,
    guest: Arc<GuestSocket>,
}

/// Why a sandbox does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The VMM could not be started.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The VMM ended.
    #[error(transparent)]
    Ended(#[from] VmmEnd),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The agent said no.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The guest runs, and its agent says nothing.
    #[error("the guest's agent did not answer within {seconds} s (boot_timeout_seconds)")]
    Silent {
        /// How long it was given.
        seconds: u32,
        /// The last lines of the guest's console, oldest first.
        console: Vec<String>,
    },
    /// The guest ran, and its agent does not answer any more.
    #[error("the guest's agent has not answered for {seconds} s (agent_timeout_seconds)")]
    Hangs {
        /// How long it was given.
        seconds: u32,
        /// The last lines of the guest's console, oldest first.
        console: Vec<String>,
    },
    /// A stream to the guest could not be opened.
    #[error("a stream to the guest: {0}")]
    Stream(io::Error),
    /// The start gate is open.
    #[error("cannot start an already running container")]
    StartedAlready,
    /// What the VMM handed over is not a connection.
    #[error("the connection from the guest's agent: {0}")]
    Uplink(io::Error),
}

impl StartError {
    /// Whether the microVM is not there any more, or cannot be talked to.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Agent(AgentError::Lost(_)))
    }

    /// The last lines of the guest's console, as far as they tell something about the error.
    pub fn console(&self) -> &[String] {
        match self {
            Self::Ended(end) => end.console(),
            Self::Silent { console, .. } | Self::Hangs { console, .. } => console,
            _ => &[],
        }
    }
}

/// A microVM whose guest boots.
pub struct Starting {
    vmm: Vmm,
    is_written: bool,
    gets_disks: bool,
    uplink: Uplink,
    guest: Arc<GuestSocket>,
}

impl Starting {
    /// Starts the VMM. Called inside a tokio runtime.
    ///
    /// # Errors
    /// What it needs is not there, or it cannot be executed.
    pub fn launch(
        machine: Machine,
        folder: &StateFolder,
        shared: &SharedFolder,
        cgroup: BorrowedFd<'_>,
    ) -> Result<Self, StartError> {
        let (is_written, gets_disks) = (machine.has_writable_disk(), machine.disk_slots > 0);
        let (vmm, uplink) = Vmm::start(machine, folder, shared, cgroup)?;
        Ok(Self {
            vmm,
            is_written,
            gets_disks,
            uplink,
            guest: Arc::new(GuestSocket::of(folder)?),
        })
    }
}

impl Sandbox {
    /// Waits until the guest's agent answers, or until it is clear that it never will.
    ///
    /// # Errors
    /// The VMM ended, or the agent did not answer in time.
    pub async fn boot(mut starting: Starting, patience: Patience) -> Result<Self, StartError> {
        let seconds = patience.boot_seconds;
        let connection = tokio::select! {
            biased;
            connection = starting.uplink.accept(AGENT_PORT) => connection,
            end = starting.vmm.ended() => return Err(end.into()),
            () = tokio::time::sleep(Duration::from_secs(seconds.into())) => {
                let console = starting.vmm.control().last_words().await;
                return Err(StartError::Silent { seconds, console });
            }
        };
        match connection {
            Ok(connection) => {
                let (agent, control) = (Agent::new(connection), starting.vmm.control());
                Ok(Self {
                    heartbeat: Heartbeat::start(agent.clone(), control.clone(), patience.agent_seconds),
                    agent,
                    control,
                    vmm: Some(starting.vmm),
                    is_written: starting.is_written,
                    gets_disks: starting.gets_disks,
                    guest: starting.guest,
                })
            }
            // The VMM has closed its end, so it is about to end.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(starting.vmm.ended().await.into()),
            Err(e) => Err(StartError::Uplink(e)),
        }
    }

    /// The sandbox whose owner's state folder it is, as seen from the monitor of another container. Called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// It has ended.
    pub async fn join(owner: &StateFolder) -> Result<Self, StartError> {
        let guest = GuestSocket::of(owner)?;
        let (agent, control) = (Agent::connect(&guest).await?, VmmControl::of(owner)?);
        Ok(Self {
            vmm: None,
            // Its owner's monitor asks.
            heartbeat: Heartbeat::start(agent.clone(), control.clone(), 0),
            is_written: false,
            gets_disks: false,
            agent,
            control,
            guest: Arc::new(guest),
        })
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The guest's ties to the network namespace of the calling thread: none yet. They are its owner's to make.
    pub fn network(&self) -> Option<Network> {
        self.vmm.as_ref()?;
        Some(Network::new(self.control.clone(), self.agent.clone()))
    }

    /// The way to a bigger machine.
    pub fn growth(&self) -> Growth {
        Growth::new(self.control.clone(), self.agent.clone())
    }

    /// The way to the guest's ports.
    pub fn guest(&self) -> Arc<GuestSocket> {
        Arc::clone(&self.guest)
    }

    /// Tells when the agent does not answer any more, if that is this monitor's to see.
    pub fn pulse(&self) -> Pulse {
        self.heartbeat.pulse()
    }

    /// Kills the microVM, if it is this monitor's. There is nothing to be ended then.
    pub fn kill(&mut self) {
        self.vmm = None;
        (self.is_written, self.gets_disks) = (false, false);
    }

    /// Ends it, when its owner's container has ended. A guest that has nothing to write back is killed at once.
    ///
    /// # Errors
    /// The guest could not write back.
    pub async fn end(mut self) -> Result<(), StartError> {
        if self.is_written || (self.gets_disks && !attached(&self.control).await.is_empty()) {
            let agent = self.agent.clone();
            self.attempt(async move { agent.shut_down().await }).await?;
            self.vmm_ended().await;
        }
        Ok(())
    }

    /// Waits for the VMM's end; for ever if it is another monitor's.
    async fn vmm_ended(&mut self) -> VmmEnd {
        match &mut self.vmm {
            Some(vmm) => vmm.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Does something that needs the microVM, and gives up when that ends.
    ///
    /// # Errors
    /// The microVM's end, if that is why it could not be done; else the error itself.
    pub async fn attempt<T, E: Into<StartError>>(
        &mut self,
        action: impl Future<Output = Result<T, E>>,
    ) -> Result<T, StartError> {
        let pulse = self.pulse();
        let error = tokio::select! {
            biased;
            result = action => match result {
                Ok(value) => return Ok(value),
                Err(error) => error.into(),
            },
            end = self.vmm_ended() => return Err(end.into()),
            hangs = pulse.stopped() => return Err(hangs),
        };
        if self.vmm.is_none() || !matches!(error, StartError::Agent(AgentError::Lost(_))) {
            return Err(error);
        }
        // A connection breaks a moment before the VMM's end can be seen, and the end is the reason.
        match tokio::time::timeout(LAST_WORDS, self.vmm_ended()).await {
            Ok(end) => Err(end.into()),
            Err(_) => Err(error),
        }
    }
}
