//! What a stand-in that its caller leaves behind has for standard streams.

use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::{io::FdFlags, termios::Winsize};

use super::Console;

/// The streams of a detached stand-in.
#[derive(Debug)]
pub enum StandardStreams {
    /// Those of the caller's process.
    Inherited,
    /// A pseudo-terminal of the host's, whose master the caller has.
    Console(Console),
    /// Descriptors that the caller's process was given for it.
    Given(GivenStreams),
}

impl StandardStreams {
    /// Makes them the calling process's own. It leads its session.
    ///
    /// # Errors
    /// See [`Console::take`]; no descriptors left.
    pub fn take(&self) -> io::Result<()> {
        match self {
            Self::Inherited => Ok(()),
            Self::Console(console) => console.take(),
            Self::Given(given) => given.take(),
        }
    }

    /// Whether the guest's end is a terminal.
    pub fn has_terminal(&self) -> bool {
        match self {
            Self::Inherited => false,
            Self::Console(_) => true,
            Self::Given(given) => given.terminal,
        }
    }

    /// The size of the host's side of the terminal, if there is one.
    pub fn window(&self) -> Option<Winsize> {
        match self {
            Self::Console(console) => console.size(),
            Self::Inherited | Self::Given(_) => None,
        }
    }
}

/// Streams that are given beside the standard ones, on which the caller's process itself speaks.
#[derive(Debug)]
pub struct GivenStreams {
    streams: [OwnedFd; 3],
    /// The guest's end is a terminal. There is none on the host: the streams carry its bytes.
    terminal: bool,
}

impl GivenStreams {
    /// The descriptors of input, output and errors.
    pub const NUMBERS: [RawFd; 3] = [3, 4, 5];

    /// Those descriptors. They are nobody else's.
    ///
    /// # Errors
    /// One of them is not open.
    pub fn inherited(terminal: bool) -> io::Result<Self> {
        for number in Self::NUMBERS {
            // SAFETY: it is used for this call only, which says so if the number is not that of an open file.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
        }
        // SAFETY: they are open, and the process was started with them for nobody but the caller of this function.
        let streams = Self::NUMBERS.map(|number| unsafe { OwnedFd::from_raw_fd(number) });
        Ok(Self { streams, terminal })
    }

    fn take(&self) -> io::Result<()> {
        let [input, output, errors] = &self.streams;
        rustix::stdio::dup2_stdin(input)?;
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(errors)?;
        Ok(())
    }
}
