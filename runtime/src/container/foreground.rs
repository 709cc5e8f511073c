//! The process that the caller started and that stays: it waits for the monitor, and keeps what belongs to the caller.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};

use super::{Notice, Received, Standin, hooks::Point, terminal::Wanted};
use crate::{logging, sandbox::Ended};

/// How a container's run ended for the process that stayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// As the monitor did, which is as the workload did.
    Ended(Ended),
    /// Something went wrong, and has been said.
    Failed,
}

impl Standin {
    /// Has the program started, and passes signals and keys on until the monitor has ended. The caller's terminal is then
    /// as it was.
    ///
    /// # Errors
    /// The operating system's; the monitor may then still run.
    pub fn attend(&mut self) -> io::Result<RunEnd> {
        let attended = self.run_attended();
        if let Some(terminal) = &self.terminal {
            terminal.restore();
        }
        let failures = attended?;
        for (message, console) in &failures {
            logging::report_text(message, console);
        }
        let ended = self.monitor.wait()?;
        Ok(if failures.is_empty() {
            RunEnd::Ended(ended)
        } else {
            RunEnd::Failed
        })
    }

    /// Returns, with what went wrong, when the monitor has ended.
    fn run_attended(&mut self) -> io::Result<Vec<(String, Vec<String>)>> {
        let mut failures = Vec::new();
        // From now on the terminal is the program's own.
        if let Some(terminal) = &self.terminal {
            terminal.make_raw()?;
        }
        // A monitor that has gone is noticed below.
        let _ = self.notices.go();
        let mut listens = true;
        loop {
            let mut polled = vec![
                PollFd::from_borrowed_fd(self.monitor.pidfd(), PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            if listens {
                polled.push(PollFd::new(self.notices.stream(), PollFlags::IN));
            }
            if let Some(keyboard) = &self.keyboard {
                let event = match keyboard.wanted() {
                    Wanted::Keys => PollFlags::IN,
                    Wanted::Room => PollFlags::OUT,
                };
                polled.push(PollFd::from_borrowed_fd(keyboard.descriptor(), event));
            }
            rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
            let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
            let mut next = || ready.next().unwrap_or(false);
            let (ended, signal) = (next(), next());
            let notice = listens && next();
            let key = self.keyboard.is_some() && next();
            drop(polled);
            // What the monitor said last comes before its end.
            if notice {
                match self.notices.receive()? {
                    Received::Notice(Notice::Failed { message, console }) => {
                        failures.push((message, console));
                    }
                    Received::Notice(Notice::Running) => {
                        if let Err(failure) = self.run_hooks(Point::Poststart) {
                            failures.push((failure.to_string(), Vec::new()));
                            self.monitor.signal(libc::SIGKILL)?;
                        }
                    }
                    Received::Notice(_) | Received::Nothing => {}
                    Received::End => listens = false,
                }
                continue;
            }
            if ended {
                return Ok(failures);
            }
            if signal {
                self.pass_signal_on()?;
            }
            if key && self.keyboard.as_mut().is_some_and(|keyboard| !keyboard.advance()) {
                self.keyboard = None;
            }
        }
    }
}
