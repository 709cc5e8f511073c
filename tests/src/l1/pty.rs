//! A terminal for a command that asked for one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::pty::{Winsize, openpty};

use crate::testbed::channel::WindowSize;

/// The master side of a terminal.
pub struct Terminal {
    master: File,
}

impl Terminal {
    /// Makes a terminal and `command` its session's leader.
    ///
    /// # Errors
    /// Those of openpty(3).
    pub fn attach(command: &mut Command, size: WindowSize) -> io::Result<Self> {
        let pair = openpty(&winsize(size), None)?;
        let slave = pair.slave;
        command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave);
        // SAFETY: ioctl(2) and setsid(2) are async-signal-safe; descriptor 0 is the slave by then.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    Err(io::Error::last_os_error())
                } else {
                    Ok(())
                }
            });
        }
        Ok(Self {
            master: pair.master.into(),
        })
    }

    /// Another handle on the master.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn handle(&self) -> io::Result<File> {
        self.master.try_clone()
    }

    /// Tells the terminal its size; the foreground group gets SIGWINCH.
    pub fn resize(&self, size: WindowSize) {
        nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, Winsize);
        // SAFETY: `master` is a terminal and the size outlives the call.
        let _ = unsafe { set_size(self.master.as_raw_fd(), &winsize(size)) };
    }
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
