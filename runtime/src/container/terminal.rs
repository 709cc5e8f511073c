//! The caller's terminal. It stays with the process that the caller started, where the shell's job control reaches it.

use std::{
    io::{self, PipeReader, PipeWriter, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::termios::{OptionalActions, Termios, Winsize};

/// The size of a terminal of which nobody knows it.
pub const UNKNOWN_SIZE: Winsize = Winsize {
    ws_row: 0,
    ws_col: 0,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// Why there is no terminal.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// Standard input is something else.
    #[error(
        "config.json asks for a terminal (process.terminal), but standard input is not one: run bulkhead in a terminal, or set it to false"
    )]
    NotATerminal,
    /// The terminal cannot be asked for its settings.
    #[error("the terminal on standard input: {0}")]
    System(#[from] io::Error),
}

/// The terminal on standard input, and the settings it had.
#[derive(Debug, Clone)]
pub struct Terminal {
    device: Rc<OwnedFd>,
    settings: Termios,
}

impl Terminal {
    /// The terminal on standard input.
    ///
    /// # Errors
    /// Standard input is not a terminal.
    pub fn of_stdin() -> Result<Self, TerminalError> {
        let stdin = rustix::stdio::stdin();
        if !rustix::termios::isatty(stdin) {
            return Err(TerminalError::NotATerminal);
        }
        let device = stdin.try_clone_to_owned()?;
        let settings = rustix::termios::tcgetattr(&device).map_err(io::Error::from)?;
        Ok(Self {
            device: Rc::new(device),
            settings,
        })
    }

    /// Its size in characters.
    pub fn size(&self) -> Option<Winsize> {
        rustix::termios::tcgetwinsize(&*self.device).ok()
    }

    /// Has it pass every key on as it is.
    ///
    /// # Errors
    /// The terminal's.
    pub fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.settings.clone();
        raw.make_raw();
        Ok(rustix::termios::tcsetattr(
            &*self.device,
            OptionalActions::Drain,
            &raw,
        )?)
    }

    /// Gives it back the settings it had.
    pub fn restore(&self) {
        // A terminal that has gone needs no settings.
        let _ = rustix::termios::tcsetattr(&*self.device, OptionalActions::Drain, &self.settings);
    }
}

/// Carries what is typed on the terminal on standard input into a pipe.
///
/// The monitor lives in a session of its own, where reading a terminal would bypass the shell's job control: a run in the
/// background would steal what is typed in the foreground.
#[derive(Debug)]
pub struct Keyboard {
    pipe: PipeWriter,
    pending: Vec<u8>,
}

/// What the keyboard can be asked to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Wait until something is typed.
    Keys,
    /// Wait until the pipe has room.
    Room,
}

impl Keyboard {
    /// The longest line of a terminal in its usual mode.
    const LINE: usize = 4096;

    /// For the terminal on standard input, with the reading end of the pipe; none if standard input is something else.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn of_stdin() -> io::Result<Option<(Self, PipeReader)>> {
        if !rustix::termios::isatty(rustix::stdio::stdin()) {
            return Ok(None);
        }
        let (reader, pipe) = io::pipe()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Some((
            Self {
                pipe,
                pending: Vec::new(),
            },
            reader,
        )))
    }

    /// What has to be waited for.
    pub fn wanted(&self) -> Wanted {
        if self.pending.is_empty() {
            Wanted::Keys
        } else {
            Wanted::Room
        }
    }

    /// The descriptor to wait on.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self.wanted() {
            Wanted::Keys => rustix::stdio::stdin(),
            Wanted::Room => self.pipe.as_fd(),
        }
    }

    /// Does what was waited for. Answers whether there is more to come: after the end of file, or when nobody reads the
    /// pipe, there is not.
    pub fn advance(&mut self) -> bool {
        if self.wanted() == Wanted::Keys {
            let mut buffer = [0; Self::LINE];
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) => return false,
                Ok(n) => self
                    .pending
                    .extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) => return e == rustix::io::Errno::INTR,
            }
        }
        match self.pipe.write(&self.pending) {
            Ok(n) => {
                self.pending.drain(..n);
                true
            }
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }
}
