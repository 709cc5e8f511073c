//! Helper processes that cannot outlive us.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use super::Error;

/// A child that is killed when this value is dropped, and by the kernel when the thread that spawned it ends, however
/// it ends.
pub struct Process {
    child: Child,
}

impl Process {
    /// Spawns `command`, which inherits `fds` under their numbers.
    ///
    /// # Errors
    /// The program does not start.
    pub fn spawn(command: &mut Command, fds: &[BorrowedFd<'_>]) -> Result<Self, Error> {
        let inherited: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let parent = Pid::this();
        // SAFETY: prctl(2), getppid(2) and fcntl(2) are async-signal-safe, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                set_pdeathsig(Signal::SIGKILL)?;
                if getppid() != parent {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                for fd in &inherited {
                    // The parent holds them open until after the fork.
                    fcntl(BorrowedFd::borrow_raw(*fd), FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(|source| Error::Program {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        Ok(Self { child })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Those of wait(2).
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Its standard output, if that was piped and not yet taken.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
