//! How the VMM says how it ended.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::{panic, thread};

use serde::{Deserialize, Serialize};

use crate::console::Console;

/// The last word of a VMM, written as one JSON document to the report descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What happened.
    pub outcome: Outcome,
    /// The last lines of the guest's console, oldest first.
    pub console: Vec<String>,
}

/// Why the VMM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// The guest switched itself off, or asked for a reset: a microVM has nothing to come back to.
    PowerOff,
    /// The guest's kernel panicked.
    Panic {
        /// The kernel's own words, where the console has them.
        message: String,
    },
    /// A virtual processor met a fault that it could not deliver.
    TripleFault,
    /// The `stop` request.
    Stopped,
    /// The VMM itself failed.
    Failed {
        /// What it was doing.
        stage: Stage,
        /// What went wrong.
        message: String,
    },
}

/// What the VMM was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading and checking the configuration.
    Configuration,
    /// Giving up what it does not need.
    Jail,
    /// Asking KVM for a virtual machine.
    Kvm,
    /// Making the guest's memory.
    Memory,
    /// Loading the kernel, the initramfs and the boot data.
    Kernel,
    /// Making the devices.
    Devices,
    /// Making the virtual processors.
    Vcpus,
    /// Running the guest.
    Run,
}

/// What a pipe takes without being read (pipe(7)): a report fits, so that the VMM ends even when its reader waits for
/// that before it reads. The oldest lines of the console are left out for it.
const PIPE_CAPACITY: usize = 64 << 10;

/// Writes the report, once.
#[derive(Clone)]
pub struct Reporter(Arc<Inner>);

struct Inner {
    pipe: Mutex<Option<File>>,
    console: Console,
}

impl Reporter {
    /// A reporter that writes to `pipe` and adds the lines of `console`. Without a pipe it
    /// writes nothing.
    pub fn new(pipe: Option<OwnedFd>, console: Console) -> Self {
        Reporter(Arc::new(Inner {
            pipe: Mutex::new(pipe.map(File::from)),
            console,
        }))
    }

    /// Writes the report of `outcome`, unless one has been written. Whoever is to read it may have gone: no matter.
    pub fn report(&self, outcome: Outcome) {
        self.write(outcome, Console::lines);
    }

    /// Whether the report's pipe has no reader any more.
    pub fn has_lost_its_reader(&self) -> bool {
        let pipe = self.0.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pipe) = pipe.as_ref() else { return false };
        let mut poll = libc::pollfd {
            fd: pipe.as_raw_fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: one valid pollfd, which the kernel does not keep.
        unsafe { libc::poll(&raw mut poll, 1, 0) };
        poll.revents & libc::POLLERR != 0
    }

    /// Makes a panic of any thread end the process with a report.
    pub fn install_panic_hook(&self) {
        let reporter = self.clone();
        panic::set_hook(Box::new(move |info| {
            let name = thread::current().name().unwrap_or("unnamed").to_owned();
            let message = format!("a defect in the VMM: thread {name} {info}");
            reporter.write(
                Outcome::Failed {
                    stage: Stage::Run,
                    message,
                },
                Console::try_lines,
            );
            // SAFETY: ends the process; nothing is unwound.
            unsafe { libc::_exit(1) };
        }));
    }

    fn write(&self, outcome: Outcome, lines: fn(&Console) -> Vec<String>) {
        let Some(mut pipe) = self.0.pipe.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let mut report = Report {
            outcome,
            console: lines(&self.0.console),
        };
        let mut json = to_json(&report);
        while json.len() > PIPE_CAPACITY && !report.console.is_empty() {
            report.console.drain(..report.console.len().div_ceil(2));
            json = to_json(&report);
        }
        let _ = pipe.write_all(&json);
    }
}

fn to_json(report: &Report) -> Vec<u8> {
    let mut json = serde_json::to_vec(report).expect("a report has no maps with keys that are not strings");
    json.push(b'\n');
    json
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;
    use crate::console::ConsoleWriter;

    #[test]
    fn there_is_one_report_with_the_console() {
        let (mut reader, writer) = pipe().unwrap();
        let console = Console::default();
        ConsoleWriter::new(console.clone(), None)
            .write_all(b"last words\n")
            .unwrap();
        let reporter = Reporter::new(Some(writer.into()), console);
        reporter.clone().report(Outcome::PowerOff);
        reporter.report(Outcome::TripleFault);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let report: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(
            report,
            Report {
                outcome: Outcome::PowerOff,
                console: vec!["last words".to_owned()]
            }
        );
    }

    #[test]
    fn a_report_does_not_wait_for_its_reader() {
        let (mut reader, writer) = pipe().unwrap();
        let console = Console::default();
        // Each of these becomes six bytes of JSON.
        let line = [&[0x1b; 80][..], b"\n"].concat();
        ConsoleWriter::new(console.clone(), None)
            .write_all(&line.repeat(800))
            .unwrap();
        let reporter = Reporter::new(Some(writer.into()), console);
        reporter.report(Outcome::TripleFault);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.len() <= PIPE_CAPACITY);
        let report: Report = serde_json::from_str(&text).unwrap();
        assert!(report.console.len() > 50, "the last lines stay");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, writer) = pipe().unwrap();
        let reporter = Reporter::new(Some(writer.into()), Console::default());
        assert!(!reporter.has_lost_its_reader());
        drop(reader);
        assert!(reporter.has_lost_its_reader());
        reporter.report(Outcome::Stopped);
    }
}
