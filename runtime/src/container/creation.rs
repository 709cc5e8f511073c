//! The caller's side of a container's creation: it takes the id, makes what the monitor starts from, forks the monitor,
//! and waits until that says that the container is created.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use bulkhead_agent_protocol::hook::Hooks;
use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Attachment, Keyboard, Monitor, Notice, Notices, Place, PlaceError, Received, ShareError, Shares,
    StandardStreams, Stopwatch, Terminal, clean_up, dispose_of,
    hooks::{self, HookFailure, Point},
    shared_namespaces,
};
use crate::{
    config::Config,
    logging,
    oci::Bundle,
    sandbox::{Birthplace, Child, Driver, Ended, Fork, Id, Limits, StateError, StateFolder, fork},
    signals,
};

/// A container to be created.
pub struct Creation {
    /// The host's settings.
    pub config: Config,
    /// What to run.
    pub bundle: Bundle,
    /// The folder of all state folders, absolute.
    pub root: PathBuf,
    /// What it is to be called.
    pub id: Id,
    /// Who makes its cgroup.
    pub driver: Driver,
}

/// Whether the calling process stays, and what the workload's terminal is.
pub enum Presence {
    /// It stays until the container's end.
    Stays {
        /// The caller's terminal, if the workload is to have one.
        terminal: Option<Terminal>,
    },
    /// It goes when the container is created.
    Goes {
        /// The stand-in's streams.
        streams: StandardStreams,
    },
}

/// Why a container was not created. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum CreationError {
    /// The id is taken, or the state folder cannot be made.
    #[error(transparent)]
    State(#[from] StateError),
    /// The sandbox cannot be joined, or the cgroup not be made.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A namespace that is none of the sandbox.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The operating system said no.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// The monitor said why.
    #[error("{message}")]
    Failed {
        /// One line.
        message: String,
        /// The last lines of the guest's console, oldest first, as far as they tell something about it.
        console: Vec<String>,
    },
    /// A signal came before the container was created, or while a hook was run.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookFailure),
    /// The monitor ended without a word.
    #[error("the container's monitor {}", match .0 {
        Ended::Exited(status) => format!("ended early, with exit status {status}"),
        Ended::Killed(signal) => format!("was killed by signal {signal}"),
    })]
    MonitorEnded(Ended),
}

impl CreationError {
    fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    /// The last lines of the guest's console, as far as they tell something about the failure.
    pub fn console(&self) -> &[String] {
        match self {
            Self::Failed { console, .. } => console,
            _ => &[],
        }
    }
}

/// A container's monitor, as the process has it that started it.
pub struct Standin {
    /// Its state folder.
    pub folder: StateFolder,
    /// Where its container's microVM is.
    pub place: Place,
    /// What else is run, and when.
    pub hooks: Hooks,
    /// Its process.
    pub monitor: Child,
    /// What it says.
    pub notices: Notices,
    /// The signals to pass on.
    pub signals: OwnedFd,
    /// The caller's terminal, if the workload is to have one and the calling process stays.
    pub terminal: Option<Terminal>,
    /// The caller's keyboard, if standard input is one and the calling process stays.
    pub keyboard: Option<Keyboard>,
}

impl Creation {
    /// Starts the monitor, and returns when the container waits at its start gate. Called in a process of one thread, whose
    /// signals are held back from then on.
    ///
    /// # Errors
    /// See [`CreationError`].
    pub fn carry_out(self, presence: Presence) -> Result<Standin, CreationError> {
        // From here on there is something to remove, which a signal is not to keep from happening.
        let signals = signals::take().map_err(CreationError::io("take signals"))?;
        // First of all: that the id is taken says more than anything that follows from it.
        let folder = StateFolder::create(&self.root, &self.id)?;
        let (place, limits, shares) = match self.find_place() {
            Ok(found) => found,
            Err(error) => {
                folder.remove()?;
                return Err(error);
            }
        };
        logging::set_subject(place.owner().map_or(&self.id, |owner| &owner.state.id), &self.id);
        let forked = folder
            .save_config(&self.bundle.document)
            .and_then(|()| place.own().map_or(Ok(()), |cgroup| folder.save_cgroup(cgroup)))
            .map_err(CreationError::from)
            .and_then(|()| Ok(place.birthplace(&limits)?))
            .and_then(|birthplace| self.start(presence, signals, &folder, &place, shares, birthplace));
        let mut standin = match forked {
            Ok(standin) => standin,
            Err(error) => {
                clean_up(&folder, &place);
                return Err(error);
            }
        };
        match standin.wait_until_created() {
            Ok(()) => Ok(standin),
            Err(error) => {
                standin.discard();
                Err(error)
            }
        }
    }

    /// Where the container is to be, with what limits, and whose namespaces it shares. Nothing is made.
    fn find_place(&self) -> Result<(Place, Limits, Shares), CreationError> {
        let spec = &self.bundle.spec;
        let place = Place::of(self.driver, spec, &self.id, &self.root)?;
        let limits = place.limits(&self.config, spec)?;
        let shares = shared_namespaces(&self.bundle, place.owner())?;
        Ok((place, limits, shares))
    }

    fn start(
        self,
        presence: Presence,
        signals: OwnedFd,
        folder: &StateFolder,
        place: &Place,
        shares: Shares,
        birthplace: Birthplace,
    ) -> Result<Standin, CreationError> {
        let (caller, monitor_caller) = UnixStream::pair().map_err(CreationError::io("make a socket pair"))?;
        let (attachment, terminal, keyboard) = match presence {
            Presence::Goes { streams } => (Attachment::Detached { streams }, None, None),
            Presence::Stays { terminal } => {
                let keyboard = Keyboard::of_stdin().map_err(CreationError::io("make a pipe"))?;
                let (keyboard, keys) = keyboard.unzip();
                let attached = Attachment::Attached {
                    keys,
                    terminal: terminal.clone(),
                };
                (attached, terminal, keyboard)
            }
        };
        match fork(birthplace.as_fd()).map_err(CreationError::io("start the monitor"))? {
            Fork::Parent(monitor) => Ok(Standin {
                folder: folder.clone(),
                place: place.clone(),
                hooks: self.bundle.spec.hooks,
                monitor,
                notices: Notices::new(caller),
                signals,
                terminal,
                keyboard,
            }),
            Fork::Child => {
                // Their far ends are to notice when the caller's process has gone; the monitor has signals of its own.
                drop((caller, keyboard, signals));
                Monitor {
                    config: self.config,
                    bundle: self.bundle,
                    folder: folder.clone(),
                    place: place.clone(),
                    shares,
                    cgroup: birthplace.into_folder(),
                    caller: monitor_caller,
                    attachment,
                    stopwatch: Stopwatch::default(),
                }
                .run()
            }
        }
    }
}

impl Standin {
    /// Passes signals on until the container is created or is known not to be.
    fn wait_until_created(&mut self) -> Result<(), CreationError> {
        loop {
            let mut polled = [
                PollFd::new(self.notices.stream(), PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            let failed = |source| CreationError::Io {
                action: "wait for the monitor",
                source,
            };
            if let Err(error) = rustix::io::retry_on_intr(|| poll(&mut polled, None)) {
                return Err(failed(error.into()));
            }
            let is_notice = polled.first().is_some_and(|polled| !polled.revents().is_empty());
            if is_notice {
                match self.notices.receive().map_err(failed)? {
                    Received::Nothing | Received::Notice(Notice::Running) => {}
                    Received::Notice(Notice::Prepared) => {
                        self.run_hooks(Point::Prestart)?;
                        self.run_hooks(Point::CreateRuntime)?;
                        self.notices.go().map_err(failed)?;
                    }
                    Received::Notice(Notice::Created) => return Ok(()),
                    Received::Notice(Notice::Interrupted { signal }) => {
                        return Err(CreationError::Interrupted(signal));
                    }
                    Received::Notice(Notice::Failed { message, console }) => {
                        return Err(CreationError::Failed { message, console });
                    }
                    Received::End => {
                        let ended = self.monitor.wait().map_err(failed)?;
                        return Err(CreationError::MonitorEnded(ended));
                    }
                }
            } else {
                self.pass_signal_on()
                    .map_err(CreationError::io("pass a signal on"))?;
            }
        }
    }

    /// Runs the hooks of a point.
    ///
    /// # Errors
    /// The first that does not succeed, or the container's record cannot be read.
    pub fn run_hooks(&self, point: Point) -> Result<(), CreationError> {
        match self.folder.load()? {
            Some(record) => hooks::run(point, &self.hooks, &record).map_err(|failure| match failure {
                HookFailure::Interrupted { signal, .. } => CreationError::Interrupted(signal),
                failed @ HookFailure::Failed { .. } => failed.into(),
            }),
            None => Ok(()),
        }
    }

    /// Passes the next signal on to the monitor, if there is one.
    ///
    /// # Errors
    /// The operating system's.
    pub fn pass_signal_on(&self) -> io::Result<()> {
        match signals::next(&self.signals) {
            Ok(signal) => self.monitor.signal(signal),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Kills what still runs of the container, and removes all that it has.
    pub fn discard(self) {
        // It may have ended, and been waited for: that is what is wanted.
        let _ = self.monitor.signal(libc::SIGKILL);
        let _ = self.monitor.wait();
        dispose_of(&self.folder, &self.place);
    }
}
