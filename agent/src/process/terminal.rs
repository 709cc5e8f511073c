//! Pseudo-terminals: made inside the container, from its own devpts; the master goes to the agent.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    container::{
        devices,
        mounts::attach,
        paths::{self, Kind},
    },
    failure::{Failure, Step},
};

const PTMX: (u32, u32) = (5, 2);

/// Both ends of a pseudo-terminal, in the process that will have it.
#[derive(Debug)]
pub struct Terminal {
    /// The agent's end.
    pub master: OwnedFd,
    /// The program's end.
    pub slave: OwnedFd,
}

impl Terminal {
    /// Opens one of the container whose root is given.
    ///
    /// # Errors
    /// Names the step.
    pub fn open(root: BorrowedFd<'_>) -> Result<Self, Failure> {
        let named = || "open a terminal (/dev/ptmx)";
        let master = devices::open_verified(root, Path::new("/dev/ptmx"), PTMX).step(named)?;
        unlockpt(&master).step(named)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).step(named)?;
        Ok(Self { master, slave })
    }
}

/// Shows the terminal as the container's `/dev/console`.
///
/// # Errors
/// Names the step.
pub fn mount_console(root: BorrowedFd<'_>, terminal: &Terminal) -> Result<(), Failure> {
    let named = || "mount /dev/console";
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let console = open_tree(&terminal.slave, "", flags).step(named)?;
    let target = paths::open_or_create(root, Path::new("/dev/console"), Kind::File).step(named)?;
    attach(&console, &target).step(named)
}

/// The master, in the agent.
#[derive(Debug)]
pub struct Master(AsyncFd<OwnedFd>);

impl Master {
    /// Takes over the descriptor that a process has sent.
    ///
    /// # Errors
    /// What making it non-blocking gives.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        // SAFETY: the descriptor stays open, and the same, as long as the object that owns it.
        let master = unsafe { AsyncFd::register(master) }.map_err(io::Error::from)?;
        Ok(Self(master))
    }

    /// Sets the size of the window, in characters.
    ///
    /// # Errors
    /// What ioctl_tty(2) gives.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Errno> {
        tcsetwinsize(
            self.0.get_ref(),
            Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
    }

    /// Reads what programs have written. No bytes: every program has closed its end, and all is read.
    ///
    /// # Errors
    /// What read(2) gives, apart from the one that says so.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::READABLE, |fd| {
                match rustix::io::read(fd, &mut *buffer) {
                    Err(Errno::IO) => Ok(0),
                    result => Ok(result?),
                }
            })
            .await
    }

    /// Types all of `bytes`.
    ///
    /// # Errors
    /// What write(2) gives.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?))
                .await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::fd::AsFd,
    };

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_at_the_end() {
        let root = std::fs::File::open("/").unwrap();
        let terminal = Terminal::open(root.as_fd()).unwrap();
        let master = Master::new(terminal.master).unwrap();
        master.resize(11, 22).unwrap();
        let size = rustix::termios::tcgetwinsize(&terminal.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (11, 22));

        let mut slave = std::fs::File::from(terminal.slave);
        master.write_all(b"typed\n").await.unwrap();
        let mut typed = [0; 6];
        slave.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"typed\n");

        slave.write_all(b"last words").unwrap();
        drop(slave);
        let mut all = Vec::new();
        let mut buffer = [0; 64];
        loop {
            match master.read(&mut buffer).await.unwrap() {
                0 => break,
                length => all.extend_from_slice(&buffer[..length]),
            }
        }
        assert!(all.ends_with(b"last words"));
    }
}
