//! A stand-in that is forked for the process, and that the caller's process leaves behind.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nix::sched::{CloneFlags, setns};
use rustix::{fs::Mode, termios::Winsize};

use super::{Exec, ExecError, KILLED, event_loop};
use crate::{
    container::{
        StandardStreams, UNKNOWN_SIZE,
        monitor::{Signals, exit},
    },
    logging,
    sandbox::{Child, Exit, Fork, GuestSocket, fork},
};

/// What the stand-in says when the program has been executed; anything else is why it has not been.
const RUNS: &str = "!";

/// A stand-in to be forked. All that it needs is made before.
pub struct Detached {
    /// What is to be run.
    pub exec: Exec,
    /// Where.
    pub guest: GuestSocket,
    /// The stand-in's streams.
    pub streams: StandardStreams,
    /// The first size of its terminal, if the process object gives it.
    pub window: Option<Winsize>,
    /// The folder of the sandbox's cgroup on the host.
    pub cgroup: OwnedFd,
    /// The network namespace of the container's stand-in.
    pub network: OwnedFd,
}

impl Detached {
    /// Starts the stand-in, and returns when the program has been executed. Called in a process of one thread.
    ///
    /// # Errors
    /// Why it has not been; the stand-in has ended then.
    pub fn start(self) -> Result<Child, ExecError> {
        let (mut ours, theirs) = UnixStream::pair().map_err(ExecError::system("make a socket pair"))?;
        match fork(self.cgroup.as_fd()).map_err(ExecError::system("start a stand-in"))? {
            Fork::Child => {
                drop(ours);
                self.stand_in(theirs)
            }
            Fork::Parent(child) => {
                drop(theirs);
                let mut said = String::new();
                ours.read_to_string(&mut said)
                    .map_err(ExecError::system("wait for the stand-in"))?;
                match said.as_str() {
                    RUNS => Ok(child),
                    "" => Err(ExecError::StandinEnded),
                    _ => Err(ExecError::Standin(said)),
                }
            }
        }
    }

    fn stand_in(self, mut caller: UnixStream) -> ! {
        let ended = self.set_up().and_then(|()| self.carry(&mut caller));
        let exit = ended.unwrap_or_else(|error| {
            // Nobody listens any more when the program ran; then it is for the log.
            if caller.write_all(error.to_string().as_bytes()).is_err() {
                tracing::error!("exec: {error}");
            }
            match error {
                ExecError::Lost => KILLED,
                _ => Exit::Code(FAILED),
            }
        });
        drop(caller);
        exit::end_as(exit)
    }

    /// Makes the forked process one of its own, which nothing of the caller's can reach.
    fn set_up(&self) -> Result<(), ExecError> {
        logging::leave_stderr();
        let set_up = || -> io::Result<()> {
            exit::close_inherited()?;
            rustix::process::setsid()?;
            rustix::process::umask(Mode::from_raw_mode(0o022));
            rustix::process::chdir("/")?;
            setns(self.network.as_fd(), CloneFlags::CLONE_NEWNET)?;
            self.streams.take()
        };
        set_up().map_err(ExecError::system("set the stand-in up"))
    }

    fn carry(self, caller: &mut UnixStream) -> Result<Exit, ExecError> {
        let Self {
            exec,
            guest,
            streams,
            window,
            ..
        } = self;
        event_loop()?.block_on(async {
            let signals = Signals::take().map_err(ExecError::system("take signals"))?;
            let size = || streams.window();
            let first_size = streams
                .has_terminal()
                .then(|| window.or_else(size).unwrap_or(UNKNOWN_SIZE));
            let running = exec.start(&guest, first_size, || Ok(())).await?;
            // A caller that has gone is not missed.
            let _ = caller.write_all(RUNS.as_bytes());
            let _ = caller.shutdown(std::net::Shutdown::Both);
            let ended = running.wait(&signals, size).await?;
            let exit = ended.exit;
            if ended.is_output_held {
                leave_behind(exit);
            }
            ended.drain().await?;
            Ok(exit)
        })
    }
}

/// The exit status of a stand-in that could not have its program run.
const FAILED: i32 = 255;

/// Ends the calling process as the program ended, and goes on in a copy of it: what processes write that the program has
/// left behind is still to be carried.
fn leave_behind(exit: Exit) {
    // SAFETY: this process has one thread, so no lock is held by another one.
    match unsafe { libc::fork() } {
        0 => {}
        // Without a copy, somebody waits longer than need be.
        -1 => tracing::error!("exec: fork: {}", io::Error::last_os_error()),
        _ => exit::end_as(exit),
    }
}
