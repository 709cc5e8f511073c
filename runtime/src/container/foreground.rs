//! The process that the caller started: it waits for the monitor, and keeps what belongs to the caller.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{Keyboard, Terminal, terminal::Wanted};
use crate::{
    sandbox::{Child, Ended},
    signals,
};

/// What the caller's process holds while the monitor works.
pub struct Foreground {
    /// The monitor.
    pub monitor: Child,
    /// The signals to pass on.
    pub signals: OwnedFd,
    /// Open as long as this process lives; the monitor writes a byte to it before the program runs, and waits
    /// for the answer if there is a terminal.
    pub channel: UnixStream,
    /// The caller's terminal, if the workload is to have one.
    pub terminal: Option<Terminal>,
    /// The caller's keyboard, if standard input is one.
    pub keyboard: Option<Keyboard>,
}

impl Foreground {
    /// Passes signals and keys on until the monitor has ended. The terminal is then as it was.
    ///
    /// # Errors
    /// The operating system's; the monitor may then still run.
    pub fn wait(mut self) -> io::Result<Ended> {
        let result = self.pass_on();
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
        result.and_then(|()| self.monitor.wait())
    }

    /// Returns when the monitor has ended.
    fn pass_on(&mut self) -> io::Result<()> {
        let mut started = false;
        loop {
            let mut polled = vec![
                PollFd::from_borrowed_fd(self.monitor.pidfd(), PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            // Until the program runs, what is typed stays with the terminal, so that its interrupt key works.
            if !started {
                polled.push(PollFd::new(&self.channel, PollFlags::IN));
            } else if let Some(keyboard) = &self.keyboard {
                let event = if keyboard.wanted() == Wanted::Keys {
                    PollFlags::IN
                } else {
                    PollFlags::OUT
                };
                polled.push(PollFd::from_borrowed_fd(keyboard.descriptor(), event));
            }
            rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
            let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
            if ready.first() == Some(&true) {
                return Ok(());
            }
            if ready.get(1) == Some(&true) {
                match signals::next(&self.signals) {
                    Ok(signal) => self.monitor.signal(signal)?,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            if ready.get(2) == Some(&true) {
                if !started {
                    started = true;
                    self.take_over()?;
                } else if self.keyboard.as_mut().is_some_and(|keyboard| !keyboard.advance()) {
                    self.keyboard = None;
                }
            }
        }
    }

    /// The program is about to run: from now on the terminal is its own.
    fn take_over(&mut self) -> io::Result<()> {
        // End of file: the monitor is about to end.
        match (self.channel.read(&mut [0])?, &self.terminal) {
            (1, Some(terminal)) => {
                terminal.make_raw()?;
                self.channel.write_all(b"!")
            }
            _ => Ok(()),
        }
    }
}
