//! The container's stand-in on the host: it makes the sandbox, carries the streams, and ends with the workload's status.

use std::{
    io::{self, PipeReader},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
};

use bulkhead_agent_protocol::messages::WaitResponse;
use rustix::{fs::Mode, termios::Winsize};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::UnixStream,
    sync::Notify,
};

use super::{Cause, Failure, Stage, Streams, Terminal, failure::In, streams::Copying};
use crate::{
    config::Config,
    logging,
    oci::{Bundle, GuestPaths, for_guest},
    readiness::watch,
    sandbox::{
        Cgroup, Machine, NewState, ProcessIdentity, Sandbox, SharedFolder, StartError, Starting, State,
        StateFolder, Status,
    },
    signals,
};

/// What the monitor works from. All of it is made before the monitor is forked.
pub struct Monitor {
    /// The host's settings.
    pub config: Config,
    /// What to run.
    pub bundle: Bundle,
    /// The sandbox's state folder.
    pub folder: StateFolder,
    /// The sandbox's cgroup, in which the monitor is.
    pub cgroup: Cgroup,
    /// The same, open.
    pub cgroup_handle: OwnedFd,
    /// What is typed on the caller's terminal, if that is standard input.
    pub keys: Option<PipeReader>,
    /// Open as long as the caller's process lives.
    pub channel: StdUnixStream,
    /// The caller's terminal, if the workload is to have one.
    pub terminal: Option<Terminal>,
}

/// Signals as a tokio source.
struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    async fn next(&self) -> io::Result<i32> {
        self.0.async_io(Interest::READABLE, signals::next).await
    }

    /// The next signal that asks a program to end.
    async fn interruption(&self) -> io::Result<i32> {
        loop {
            let signal = self.next().await?;
            if signal != signals::WINDOW_CHANGED {
                return Ok(signal);
            }
        }
    }
}

impl Monitor {
    /// Runs the container from its creation to its end; answers with the exit status. What went wrong has then been said.
    /// Called in the forked process.
    pub fn run(self) -> i32 {
        let result = self.run_with_runtime();
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
        match result {
            Ok(Some(status)) => status,
            Ok(None) => {
                self.abandon();
                1
            }
            Err(Failure {
                cause: Cause::Interrupted(signal),
                ..
            }) => 128 + signal,
            Err(failure) => {
                logging::report(&failure, failure.console());
                1
            }
        }
    }

    /// None when the caller's process has gone.
    fn run_with_runtime(&self) -> Result<Option<i32>, Failure> {
        // The shell's terminal signals reach the caller's process alone, and its being killed as a group spares us.
        rustix::process::setsid()
            .map_err(io::Error::from)
            .in_stage(Stage::Prepare)?;
        // What is made for the container is not to depend on the caller's mask.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        if let Some(keys) = &self.keys {
            rustix::stdio::dup2_stdin(keys)
                .map_err(io::Error::from)
                .in_stage(Stage::Prepare)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build();
        runtime.in_stage(Stage::Prepare)?.block_on(async {
            let mut channel = self.channel().in_stage(Stage::Prepare)?;
            let signals = signals::take()
                .and_then(|fd| watch(fd, Interest::READABLE))
                .map(Signals)
                .in_stage(Stage::Prepare)?;
            let (mut caller, notices) = channel.split();
            let ready = Notify::new();
            let life = async {
                let hand_over = async {
                    // A caller that has gone is noticed below.
                    let _ = notices.try_write(b"!");
                    // A program must not find the terminal in the caller's settings, where Ctrl-C is not its own.
                    if self.terminal.is_some() {
                        ready.notified().await;
                    }
                };
                let (sandbox, copying) = tokio::select! {
                    biased;
                    started = self.start(hand_over) => started?,
                    signal = signals.interruption() => {
                        let signal = signal.in_stage(Stage::Prepare)?;
                        return Err(Cause::Interrupted(signal)).in_stage(Stage::Prepare);
                    }
                };
                self.supervise(sandbox, copying, &signals).await
            };
            tokio::select! {
                biased;
                status = life => status.map(Some),
                () = async { while caller.read_u8().await.is_ok() { ready.notify_one() } } => Ok(None),
            }
        })
    }

    fn channel(&self) -> io::Result<UnixStream> {
        let channel = self.channel.try_clone()?;
        channel.set_nonblocking(true)?;
        UnixStream::from_std(channel)
    }

    /// From nothing to a program that runs. Before it does, the caller's keyboard and terminal are handed over to it.
    async fn start(&self, hand_over: impl Future<Output = ()>) -> Result<(Sandbox, Copying), Failure> {
        let id = self.folder.id().as_str();
        let paths = GuestPaths::new(id);
        let mut state = self.first_state().in_stage(Stage::Prepare)?;
        self.folder.save(&state).in_stage(Stage::Prepare)?;

        let shared = SharedFolder::create(&self.folder).in_stage(Stage::PrepareStorage)?;
        shared
            .add_container(paths, &self.bundle)
            .in_stage(Stage::PrepareStorage)?;

        let machine = Machine::open(&self.config, &self.bundle.spec).in_stage(Stage::StartVmm)?;
        tracing::debug!(size = ?machine.size, "start VMM");
        let starting = Starting::launch(machine, &self.folder, &shared, self.cgroup_handle.as_fd())
            .in_stage(Stage::StartVmm)?;
        let spec = for_guest(self.bundle.document.clone(), &self.bundle.binds, paths)
            .to_string()
            .into_bytes();
        let mut sandbox = Sandbox::boot(starting, self.config.boot_timeout_seconds)
            .await
            .in_stage(Stage::BootGuest)?;
        tracing::debug!("agent ready");

        let (agent, guest) = (sandbox.agent().clone(), sandbox.guest());
        let connect = async move {
            Streams::connect(&guest, self.window())
                .await
                .map_err(StartError::Stream)
        };
        let streams = sandbox.attempt(connect).await.in_stage(Stage::CreateContainer)?;
        sandbox
            .attempt(agent.create(id, spec, streams.description()))
            .await
            .in_stage(Stage::CreateContainer)?;
        hand_over.await;
        sandbox
            .attempt(agent.start(id))
            .await
            .in_stage(Stage::StartContainer)?;
        tracing::debug!("program runs");

        let copying = streams.copy().in_stage(Stage::StartContainer)?;
        state.status = Status::Running;
        self.folder.save(&state).in_stage(Stage::StartContainer)?;
        Ok((sandbox, copying))
    }

    fn first_state(&self) -> io::Result<State> {
        Ok(State::creating(NewState {
            id: self.folder.id().clone(),
            monitor: ProcessIdentity::current()?,
            bundle: self.bundle.folder.clone(),
            rootfs: self.bundle.rootfs.clone(),
            cgroup: self.cgroup.path().to_owned(),
            annotations: self.bundle.spec.annotations.clone(),
        }))
    }

    /// The first size of the workload's terminal, if it is to have one: as configured, or as the caller's is.
    fn window(&self) -> Option<Winsize> {
        let caller = self.terminal.as_ref()?.size();
        let configured = self
            .bundle
            .spec
            .process
            .as_ref()
            .and_then(|process| process.console_size);
        let unknown = Winsize {
            ws_row: 0,
            ws_col: 0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Some(match configured {
            Some(size) if size.height > 0 && size.width > 0 => Winsize {
                ws_row: size.height,
                ws_col: size.width,
                ..unknown
            },
            _ => caller.unwrap_or(unknown),
        })
    }

    /// From a program that runs to its exit status, when the last byte of its output has been passed on.
    async fn supervise(
        &self,
        mut sandbox: Sandbox,
        copying: Copying,
        signals: &Signals,
    ) -> Result<i32, Failure> {
        let end = self.wait(&mut sandbox, signals).await?;
        tracing::debug!(exit_code = end.exit_code, signal = end.signal, "program ended");
        tokio::select! {
            biased;
            drained = self.drain(&mut sandbox, copying) => drained?,
            // The workload has gone; who interrupts now means the copying.
            _ = signals.interruption() => {}
        }
        let status = if end.signal == 0 {
            end.exit_code
        } else {
            end.signal.saturating_add(128)
        };
        Ok(i32::try_from(status).unwrap_or(i32::MAX) & 0xff)
    }

    /// Waits for the program's end, and passes signals on to it meanwhile.
    async fn wait(&self, sandbox: &mut Sandbox, signals: &Signals) -> Result<WaitResponse, Failure> {
        let agent = sandbox.agent().clone();
        let id = self.folder.id().as_str();
        let end = sandbox.attempt(agent.wait(id));
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                end = &mut end => return end.in_stage(Stage::RunContainer),
                signal = signals.next() => {
                    let signal = signal.in_stage(Stage::RunContainer)?;
                    let passed = match (signal, &self.terminal) {
                        (signals::WINDOW_CHANGED, None) => Ok(()),
                        (signals::WINDOW_CHANGED, Some(terminal)) => match terminal.size() {
                            Some(size) => agent.resize(id, size.ws_row.into(), size.ws_col.into()).await,
                            None => Ok(()),
                        },
                        _ => agent.signal(id, signal.unsigned_abs()).await,
                    };
                    if let Err(error) = passed {
                        tracing::debug!(signal, %error, "signal not passed on");
                    }
                }
            }
        }
    }

    /// Waits until the last byte of output has been passed on.
    async fn drain(&self, sandbox: &mut Sandbox, copying: Copying) -> Result<(), Failure> {
        copying.drained().await.in_stage(Stage::RunContainer)?;
        // A stream ends with its guest, too, and is then not whole. A guest that still answers has sent it all.
        let agent = sandbox.agent().clone();
        let answer = sandbox.attempt(agent.wait(self.folder.id().as_str())).await;
        answer.in_stage(Stage::RunContainer).map(drop)
    }

    /// Removes what the caller's process would have removed, had it not been killed.
    fn abandon(&self) {
        let _ = SharedFolder::unmount(&self.folder.path().join(StateFolder::SHARED));
        if let Err(error) = self.cgroup.leave() {
            tracing::debug!(%error, "leave the cgroup");
        }
        clean_up(&self.folder, &self.cgroup);
    }
}

/// Removes all that a sandbox has on the host, killing what still runs. What cannot be removed is said.
pub fn clean_up(folder: &StateFolder, cgroup: &Cgroup) -> bool {
    let mut clean = true;
    if let Err(error) = cgroup.remove() {
        logging::report(&error, &[]);
        clean = false;
    }
    if let Err(error) = folder.remove() {
        logging::report(&error, &[]);
        clean = false;
    }
    clean
}
