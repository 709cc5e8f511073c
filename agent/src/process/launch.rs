//! Starts processes: the agent's side of [`super::setup`].

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::Uid,
    io::Errno,
    process::{Pid, Signal, kill_process},
    thread::UnshareFlags,
};

use super::{
    Process,
    channel::{self, AgentEnd, Message},
    setup::{Role, Setup},
    stdio::{self, AgentEnds, Outputs, ProcessEnds, Streams},
    terminal::Master,
};
use crate::{
    container::{cgroup::Cgroup, namespaces},
    failure::{Failure, Step},
    reaper::{ExitReceiver, Reaper},
    syscalls::{Cloned, clone_into},
};

/// What a process is to be connected to.
pub enum Stdio {
    /// Pipes to these streams.
    Streams(Streams),
    /// A terminal, carried over these streams, and its first size in rows and columns unless one is 0.
    Terminal(Streams, (u32, u32)),
}

impl Stdio {
    /// Whether the process gets a terminal.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(..))
    }

    /// Makes what the process will have as descriptors 0, 1 and 2.
    ///
    /// # Errors
    /// What making pipes gives.
    pub fn open(self, owner: Uid) -> Result<(ProcessEnds, Carrier), Failure> {
        match self {
            Self::Streams(streams) => {
                let (process, agent) = stdio::pipes(streams, owner)?;
                Ok((process, Carrier::Pipes(agent)))
            }
            Self::Terminal(streams, size) => Ok((stdio::none()?, Carrier::Terminal(streams, size))),
        }
    }
}

/// What will carry the bytes of a process that is being started.
pub enum Carrier {
    /// Its pipes.
    Pipes(AgentEnds),
    /// Its terminal, once it has sent it, with this first size.
    Terminal(Streams, (u32, u32)),
}

/// A process on its way to its program.
pub struct Launched {
    pid: Pid,
    pidfd: OwnedFd,
    exit: ExitReceiver,
    channel: AgentEnd,
}

/// Starts a process in a cgroup.
///
/// # Errors
/// Names the step. Nothing is left running then.
pub fn launch(
    setup: &Setup<'_>,
    namespaces: UnshareFlags,
    cgroup: &Cgroup,
    files: &ProcessEnds,
    reaper: &Reaper,
) -> Result<Launched, Failure> {
    let (channel, process_end) = channel::pair().step(|| "make a channel")?;
    let place = match &setup.role {
        Role::Further {
            below: Some(below), ..
        } => *below,
        _ => cgroup.as_fd(),
    };
    let mut cloned = clone(setup, namespaces, place);
    if let (
        Err(Errno::BUSY),
        Role::Further {
            first_pid,
            below: None,
            ..
        },
    ) = (&cloned, &setup.role)
    {
        // The container has distributed its controllers, and keeps its processes further down.
        let below = cgroup
            .of_process(*first_pid)
            .step(|| "find the container's processes")?;
        cloned = clone(setup, namespaces, below.as_fd());
    }
    let (pid, pidfd) = match cloned.step(|| "start a process")? {
        Cloned::Child => setup.run(files.as_raw_fds(), process_end),
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    let launched = Launched {
        pid,
        pidfd,
        exit: reaper.adopt(pid),
        channel,
    };
    if let Role::First { plan, .. } = &setup.role
        && plan.namespaces.user()
    {
        launched
            .prepare_user_namespace(setup)
            .inspect_err(|_| launched.kill())?;
    }
    Ok(launched)
}

fn clone(setup: &Setup<'_>, namespaces: UnshareFlags, cgroup: BorrowedFd<'_>) -> Result<Cloned, Errno> {
    let ids_of = match &setup.role {
        Role::First { shared, .. } => shared.iter().find_map(|namespace| namespace.process_ids()),
        Role::Further {
            namespaces, first, ..
        } => namespaces.pid().then_some(*first),
    };
    let guard = ids_of
        .map(|process| namespaces::PidNamespaceGuard::enter(process).map_err(|_| Errno::SRCH))
        .transpose()?;
    // SAFETY: the agent has one thread.
    let cloned = unsafe { clone_into(namespaces, cgroup) };
    if matches!(cloned, Ok(Cloned::Child)) {
        // It is not this process's to go back.
        std::mem::forget(guard);
    }
    cloned
}

impl Launched {
    fn prepare_user_namespace(&self, setup: &Setup<'_>) -> Result<(), Failure> {
        if let Role::First { plan, .. } = &setup.role {
            namespaces::map_ids(self.pid, &plan.container.linux)?;
        }
        if let Some(score) = setup.process.oom_score_adj {
            let file = format!("/proc/{}/oom_score_adj", self.pid.as_raw_nonzero());
            fs::write(file, score.to_string()).step(|| "set process.oomScoreAdj")?;
        }
        self.channel.go();
        Ok(())
    }

    /// Waits until the process waits for its start (a first process) or has become its program (a further one), and
    /// carries its bytes from then on.
    ///
    /// # Errors
    /// The step that failed in the process, which has ended then.
    pub async fn establish(self, carrier: Carrier, first: bool) -> Result<(Process, AgentEnd), Failure> {
        let mut master = None;
        loop {
            match self.channel.receive().await {
                Message::Terminal(descriptor) => {
                    let new = Master::new(descriptor)
                        .step(|| "take over the terminal")
                        .inspect_err(|_| self.kill())?;
                    master = Some(Arc::new(new));
                }
                Message::Ready => break,
                Message::Closed if first => {
                    self.kill();
                    return Err(Failure::new("the process was killed while it was set up"));
                }
                Message::Closed => break,
                Message::Failed(failure) => return Err(failure),
            }
        }
        let mut outputs = Outputs::default();
        match (carrier, &master) {
            (Carrier::Pipes(pipes), _) => outputs = pipes.carry(&self.exit),
            (Carrier::Terminal(streams, (rows, columns)), Some(master)) => {
                let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
                if rows != 0 && columns != 0 {
                    master
                        .resize(size(rows), size(columns))
                        .step(|| "set the terminal's size")
                        .inspect_err(|_| self.kill())?;
                }
                stdio::carry_terminal(master, streams);
            }
            (Carrier::Terminal(..), None) => {}
        }
        let process = Process {
            pid: self.pid,
            pidfd: self.pidfd,
            exit: self.exit,
            terminal: master,
            outputs,
        };
        Ok((process, self.channel))
    }

    fn kill(&self) {
        // It may have ended by itself.
        let _ = kill_process(self.pid, Signal::KILL);
    }
}
