//! The container's stand-in on the host: it makes the sandbox, carries the streams, takes requests, and ends as the
//! workload did.
//!
//! - `create`: from nothing to a container at its start gate
//! - `supervise`: from there to its end
//! - `requests`: the socket
//! - `limits`: what requests have changed
//! - `room`: the machine that they need
//! - `stopwatch`: how long it takes to start
//! - `volumes`: what changes on the host and the guest has a copy of
//! - `voice`: how it says what goes wrong
//! - `network`: the network namespace it lives in
//! - `forwarding`: what connects to a pod's ports there
//! - `origin`: the namespaces it comes from
//! - `exit`: how it ends

mod create;
pub mod exit;
mod forwarding;
mod limits;
mod network;
mod origin;
mod requests;
mod room;
mod stopwatch;
mod supervise;
mod voice;
mod volumes;

use std::{
    io::{self, PipeReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
};

use rustix::{fs::Mode, termios::Winsize};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::{UnixStream, unix::OwnedReadHalf},
    sync::Notify,
};

use super::{
    Failure, Notice, Place, Shares, Stage, StandardStreams, Terminal, clean_up, dispose_of, failure::In,
};
use crate::{
    config::Config,
    logging,
    oci::Bundle,
    readiness::watch,
    sandbox::{Exit, SharedFolder, StateFolder},
    signals,
};
pub use network::NetworkError;
use origin::Origin;
pub use room::RoomError;
pub use stopwatch::Stopwatch;
use voice::Voice;

/// What the monitor works from. All of it is made before the monitor is forked.
pub struct Monitor {
    /// The host's settings.
    pub config: Config,
    /// What to run.
    pub bundle: Bundle,
    /// The container's state folder.
    pub folder: StateFolder,
    /// Where the container's microVM is.
    pub place: Place,
    /// The namespaces of other containers in the sandbox: their place in `linux.namespaces`, and the container.
    pub shares: Shares,
    /// The sandbox's cgroup, in which the monitor is.
    pub cgroup: OwnedFd,
    /// To the process that started it.
    pub caller: StdUnixStream,
    /// Whether that process stays.
    pub attachment: Attachment,
    /// How long its start takes.
    pub stopwatch: Stopwatch,
}

/// How the monitor hangs on the process that started it.
pub enum Attachment {
    /// That process stays, and the container ends with it.
    Attached {
        /// What is typed on the caller's terminal, if that is standard input.
        keys: Option<PipeReader>,
        /// The caller's terminal, if the workload is to have one.
        terminal: Option<Terminal>,
    },
    /// That process goes when the container is created.
    Detached {
        /// The stand-in's streams.
        streams: StandardStreams,
    },
}

impl Attachment {
    /// Whether the workload is to have a terminal.
    fn has_terminal(&self) -> bool {
        match self {
            Self::Attached { terminal, .. } => terminal.is_some(),
            Self::Detached { streams } => streams.has_terminal(),
        }
    }

    /// The size of the host's side of the workload's terminal.
    fn window(&self) -> Option<Winsize> {
        match self {
            Self::Attached { terminal, .. } => terminal.as_ref()?.size(),
            Self::Detached { streams } => streams.window(),
        }
    }
}

/// What came of a container.
enum Outcome {
    /// Its program ended, and the record says how.
    Ended(Exit),
    /// It was not created; the caller knows why.
    NotCreated,
    /// The caller's process has gone, and the container was to end with it.
    Abandoned,
}

/// Signals as a tokio source.
pub struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    /// Holds them back, and makes them readable. Called inside a tokio runtime.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn take() -> io::Result<Self> {
        signals::take()
            .and_then(|fd| watch(fd, Interest::READABLE))
            .map(Self)
    }

    /// The next signal's number.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn next(&self) -> io::Result<i32> {
        self.0.async_io(Interest::READABLE, signals::next).await
    }

    /// The next signal that asks a program to end.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn interruption(&self) -> io::Result<i32> {
        loop {
            let signal = self.next().await?;
            if signal != signals::WINDOW_CHANGED {
                return Ok(signal);
            }
        }
    }
}

impl Monitor {
    /// Runs the container from its creation to its end, and ends the calling process, which was forked for it, as the
    /// workload ended. What goes wrong is said to the caller as long as that listens, and then in the log.
    pub fn run(self) -> ! {
        let mut origin = None;
        let outcome = self.set_up(&mut origin).and_then(|()| self.run_with_runtime());
        if let Attachment::Attached {
            terminal: Some(terminal),
            ..
        } = &self.attachment
        {
            terminal.restore();
        }
        match outcome {
            Ok(Outcome::Ended(exit)) => exit::end_as(exit),
            Ok(Outcome::NotCreated) => exit::end_as(Exit::Code(1)),
            Ok(Outcome::Abandoned) => {
                self.abandon(origin.as_ref());
                exit::end_as(Exit::Code(1))
            }
            Err(failure) => {
                // The runtime of the asynchronous voice is not there, or no longer.
                if (&self.caller).write_all(&Notice::of(&failure).line()).is_err() {
                    tracing::error!("{failure}");
                }
                exit::end_as(Exit::Code(1))
            }
        }
    }

    /// Makes the forked process one of its own, which nothing of the caller's can reach. Notes where it comes from, if it may
    /// have to go back.
    fn set_up(&self, origin: &mut Option<Origin>) -> Result<(), Failure> {
        logging::leave_stderr();
        exit::close_inherited().in_stage(Stage::Prepare)?;
        // The shell's terminal signals reach the caller's process alone, and its being killed as a group spares us.
        rustix::process::setsid()
            .map_err(io::Error::from)
            .in_stage(Stage::Prepare)?;
        // What is made for the container is not to depend on the caller's mask, and not to keep the caller's folder busy.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::process::chdir("/")
            .map_err(io::Error::from)
            .in_stage(Stage::Prepare)?;
        match &self.attachment {
            Attachment::Attached { keys: Some(keys), .. } => rustix::stdio::dup2_stdin(keys)
                .map_err(io::Error::from)
                .in_stage(Stage::Prepare)?,
            Attachment::Attached { keys: None, .. } => {}
            Attachment::Detached { streams } => streams.take().in_stage(Stage::Prepare)?,
        }
        let is_attached = matches!(self.attachment, Attachment::Attached { .. });
        if is_attached && !self.bundle.spec.hooks.poststop.is_empty() {
            *origin = Some(Origin::of_this_process().in_stage(Stage::Prepare)?);
        }
        network::enter(self.bundle.spec.linux.network(), self.place.owner()).in_stage(Stage::Prepare)
    }

    fn run_with_runtime(&self) -> Result<Outcome, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build();
        runtime.in_stage(Stage::Prepare)?.block_on(async {
            let caller = self.caller.try_clone().in_stage(Stage::Prepare)?;
            caller.set_nonblocking(true).in_stage(Stage::Prepare)?;
            let (caller, voice) = UnixStream::from_std(caller)
                .in_stage(Stage::Prepare)?
                .into_split();
            let signals = Signals::take().in_stage(Stage::Prepare)?;
            let caller_says = Caller::default();
            let is_attached = matches!(self.attachment, Attachment::Attached { .. });
            let caller_has_gone = async {
                caller_says.listen(caller).await;
                if !is_attached {
                    // It is meant to, once the container is created.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                outcome = self.live(Voice::new(voice), &signals, &caller_says) => outcome,
                () = caller_has_gone => Ok(Outcome::Abandoned),
            }
        })
    }

    async fn live(&self, mut voice: Voice, signals: &Signals, caller: &Caller) -> Result<Outcome, Failure> {
        let created = tokio::select! {
            biased;
            created = self.create(&mut voice, caller) => created,
            signal = signals.interruption() => {
                self.undo(&mut voice).await;
                voice.say(&Notice::Interrupted { signal: signal.in_stage(Stage::Prepare)? }).await;
                return Ok(Outcome::NotCreated);
            }
        };
        let container = match created {
            Ok(Some(container)) => container,
            Ok(None) => return Ok(Outcome::Abandoned),
            Err(failure) => {
                self.undo(&mut voice).await;
                voice.complain(&failure).await;
                return Ok(Outcome::NotCreated);
            }
        };
        voice.say(&Notice::Created).await;
        if matches!(self.attachment, Attachment::Detached { .. }) {
            voice.hang_up();
        }
        self.supervise(container, voice, signals, &caller.go)
            .await
            .map(Outcome::Ended)
    }

    /// Takes away what a container that was not created has in a sandbox that goes on. Its own has ended with the attempt.
    async fn undo(&self, voice: &mut Voice) {
        if let Some(owner) = self.place.owner()
            && let Err(failure) = owner
                .evict(self.folder.id())
                .await
                .in_stage(Stage::CreateContainer)
        {
            voice.complain(&failure).await;
        }
    }

    /// Does what the caller's process would have done, had it not been killed: removes everything, and runs the poststop
    /// hooks.
    fn abandon(&self, origin: Option<&Origin>) {
        if let Place::Own(cgroup) = &self.place {
            let _ = SharedFolder::unmount(&self.folder.path().join(StateFolder::SHARED));
            if let Err(error) = cgroup.leave() {
                tracing::debug!(%error, "leave the cgroup");
            }
        }
        match origin.map(Origin::enter) {
            Some(Ok(())) => dispose_of(&self.folder, &self.place),
            Some(Err(error)) => {
                tracing::warn!("poststop hooks not run: return to the caller's namespaces: {error}");
                clean_up(&self.folder, &self.place)
            }
            None => clean_up(&self.folder, &self.place),
        };
    }
}

/// What comes from the caller's process.
#[derive(Default)]
struct Caller {
    /// A byte: go on.
    go: Notify,
    /// The end.
    gone: Notify,
}

impl Caller {
    /// Returns when the caller's process has gone.
    async fn listen(&self, mut caller: OwnedReadHalf) {
        while caller.read_u8().await.is_ok() {
            self.go.notify_one();
        }
        self.gone.notify_one();
    }

    /// Whether it lets the monitor go on, and has not gone.
    async fn says_go(&self) -> bool {
        tokio::select! {
            biased;
            () = self.go.notified() => true,
            () = self.gone.notified() => false,
        }
    }
}
