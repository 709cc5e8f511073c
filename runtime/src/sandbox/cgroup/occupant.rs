//! The first process of a scope: systemd starts none without one.

use std::{
    io::{self, PipeWriter},
    os::fd::AsRawFd,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};

/// A process that does nothing but be there, until this is dropped or the process that made it ends.
#[derive(Debug)]
pub struct Occupant {
    pid: Pid,
    _life: PipeWriter,
}

impl Occupant {
    /// Starts it.
    ///
    /// # Errors
    /// `pipe`'s and `fork`'s.
    pub fn start() -> io::Result<Self> {
        let (end, life) = io::pipe()?;
        // SAFETY: the child makes system calls only, on descriptors that it has, and never returns.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                _life: life,
            }),
            ForkResult::Child => {
                // SAFETY: `life` is not used in this process again; the buffer is valid; `_exit` does not return.
                unsafe {
                    libc::close(life.as_raw_fd());
                    let mut byte = 0_u8;
                    libc::read(end.as_raw_fd(), (&raw mut byte).cast(), 1);
                    libc::_exit(0)
                }
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        // In a copy of the process that made it, it is nobody's child, and may have ended: that is what is wanted.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_until_it_is_dropped() {
        let occupant = Occupant::start().expect("a process");
        let folder = format!("/proc/{}", occupant.pid());
        assert!(std::path::Path::new(&folder).exists());
        drop(occupant);
        assert!(!std::path::Path::new(&folder).exists());
    }
}
