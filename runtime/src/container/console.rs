//! The terminal of a detached container: a pseudo-terminal on the host whose master the caller gets over a Unix socket,
//! and whose slave is the monitor's standard streams. The guest has one of its own; this one only passes bytes on.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, Winsize},
};

/// Why a caller did not get what it asked for over a Unix socket.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// There is no pseudo-terminal to be had.
    #[error("make a pseudo-terminal: {0}")]
    Terminal(io::Error),
    /// The socket cannot be connected to or written to.
    #[error("{option} {}: {source}", socket.display())]
    Socket {
        /// The option that names it.
        option: &'static str,
        /// Its path.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The slave's side of a detached container's terminal.
#[derive(Debug)]
pub struct Console {
    slave: OwnedFd,
}

impl Console {
    /// Makes a pseudo-terminal and sends its master to the caller's socket. `size` is the first size, if one is known.
    ///
    /// # Errors
    /// See [`HandOverError`].
    pub fn make(socket: &Path, size: Option<Winsize>) -> Result<Self, HandOverError> {
        let (master, slave) = make_pair(size).map_err(HandOverError::Terminal)?;
        hand_over("--console-socket", socket, b"/dev/ptmx", master.as_fd())?;
        Ok(Self { slave })
    }

    /// Makes it the controlling terminal of the calling process, which leads its session, and its standard streams.
    ///
    /// # Errors
    /// The process leads no session, or has a terminal already.
    pub fn take(&self) -> io::Result<()> {
        rustix::process::ioctl_tiocsctty(&self.slave)?;
        rustix::stdio::dup2_stdin(&self.slave)?;
        rustix::stdio::dup2_stdout(&self.slave)?;
        rustix::stdio::dup2_stderr(&self.slave)?;
        Ok(())
    }

    /// Its size in characters.
    pub fn size(&self) -> Option<Winsize> {
        rustix::termios::tcgetwinsize(&self.slave).ok()
    }
}

fn make_pair(size: Option<Winsize>) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(
        name,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // The guest's terminal edits lines and makes signals of keys.
    let mut settings = rustix::termios::tcgetattr(&slave)?;
    settings.make_raw();
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings)?;
    if let Some(size) = size {
        rustix::termios::tcsetwinsize(&slave, size)?;
    }
    Ok((master, slave))
}

/// Sends a descriptor to whoever listens on `socket`, with a few bytes that say what it is.
///
/// # Errors
/// Names the `option` by which the socket was given.
pub fn hand_over(
    option: &'static str,
    socket: &Path,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> Result<(), HandOverError> {
    let send = || -> io::Result<()> {
        let stream = UnixStream::connect(socket)?;
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(
            &stream,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    };
    send().map_err(|source| HandOverError::Socket {
        option,
        socket: socket.to_owned(),
        source,
    })
}
