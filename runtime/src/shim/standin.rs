//! The program's own command line, by which the shim makes and removes stand-ins.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::oneshot;

use super::{
    descriptors,
    reaper::{End, Expecting, Reaper},
};
use crate::sandbox::{Driver, Exit};

/// The program, whatever has become of its file.
const PROGRAM: &str = "/proc/self/exe";

/// How much of what a command says is kept, in bytes.
const MAX_MESSAGE: u64 = 1 << 16;

/// Why a command did not do what it was to.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// What it said.
    #[error("{0}")]
    Failed(String),
    /// It could not be run, or what it has written not be read.
    #[error("bulkhead {command}: {source}")]
    System {
        /// The subcommand.
        command: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A process that stands in for another one in the guest.
#[derive(Debug)]
pub struct Standin {
    /// Its pid on the host.
    pub pid: i32,
    /// How it ends.
    pub end: oneshot::Receiver<End>,
}

/// The command line with what all its commands are given.
#[derive(Debug, Clone)]
pub struct Commands {
    /// The folder of all state folders.
    pub root: PathBuf,
    /// The pipe that containerd reads the log from, if it does.
    pub log: Option<PathBuf>,
    /// Log what is done, not only what goes wrong.
    pub debug: bool,
    /// The configuration file, if not the usual one.
    pub config: Option<PathBuf>,
    /// Who waits for what the commands leave behind.
    pub reaper: Arc<Reaper>,
}

impl Commands {
    /// Creates a container with these streams.
    ///
    /// # Errors
    /// See [`CommandError`]; nothing is left then.
    pub async fn create(
        &self,
        id: &str,
        bundle: &Path,
        driver: Driver,
        streams: [OwnedFd; 3],
    ) -> Result<Standin, CommandError> {
        let mut command = self.command();
        if driver == Driver::Systemd {
            command.arg("--systemd-cgroup");
        }
        let pid_file = bundle.join("init.pid");
        command.args(["create", "--streams", "--bundle"]).arg(bundle);
        command.arg("--pid-file").arg(&pid_file).arg(id);
        self.stand_in("create", command, None, streams, &pid_file).await
    }

    /// Runs a further process, JSON, with these streams in a container. `name` is what the agent is to call it.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn exec(
        &self,
        id: &str,
        name: &str,
        process: &[u8],
        pid_file: &Path,
        streams: [OwnedFd; 3],
    ) -> Result<Standin, CommandError> {
        let mut command = self.command();
        command.args([
            "exec",
            "--detach",
            "--streams",
            "--process",
            "/dev/stdin",
            "--process-id",
            name,
        ]);
        command.arg("--pid-file").arg(pid_file).arg(id);
        self.stand_in("exec", command, Some(process), streams, pid_file)
            .await
    }

    /// Runs a container's poststart hooks after opening its start gate.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn start(&self, id: &str) -> Result<(), CommandError> {
        let mut command = self.command();
        command.args(["start", id]);
        self.run("start", command, None).await.map(drop)
    }

    /// Kills what runs of a container, and removes all that it has.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn delete(&self, id: &str) -> Result<(), CommandError> {
        let mut command = self.command();
        command.args(["delete", "--force", id]);
        self.run("delete", command, None).await.map(drop)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg0("bulkhead").arg("--root").arg(&self.root);
        if let Some(log) = &self.log {
            command.arg("--log").arg(log);
        }
        if self.debug {
            command.arg("--debug");
        }
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command
    }

    async fn stand_in(
        &self,
        name: &'static str,
        mut command: Command,
        input: Option<&[u8]>,
        streams: [OwnedFd; 3],
        pid_file: &Path,
    ) -> Result<Standin, CommandError> {
        let failed = |source| CommandError::System {
            command: name,
            source,
        };
        descriptors::give(&mut command, streams).map_err(failed)?;
        let expecting = self.run(name, command, input).await?;
        let pid = std::fs::read_to_string(pid_file).map_err(failed)?;
        let pid = pid.parse().map_err(|error| failed(io::Error::other(error)))?;
        Ok(Standin {
            pid,
            end: expecting.end_of(pid),
        })
    }

    /// Runs a command to its end. What it leaves behind can be claimed then.
    async fn run(
        &self,
        name: &'static str,
        mut command: Command,
        input: Option<&[u8]>,
    ) -> Result<Expecting, CommandError> {
        let failed = |source| CommandError::System {
            command: name,
            source,
        };
        let input = match input {
            Some(input) => Stdio::from(file_of(input).map_err(failed)?),
            None => Stdio::null(),
        };
        // A file has no end that a process left behind could keep open.
        let said = file_of(b"").map_err(failed)?;
        command
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(said.try_clone().map_err(failed)?);
        let expecting = self.reaper.expect();
        let child = command.spawn().map_err(failed)?;
        drop(command);
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        let end = expecting.end_of(pid).await;
        match end.map(|end| end.exit) {
            Ok(Exit::Code(0)) => Ok(expecting),
            Ok(exit) => Err(message(said, exit).map_err(failed)?),
            Err(gone) => Err(failed(io::Error::other(gone))),
        }
    }
}

/// A file without a name that is at its beginning.
fn file_of(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("bulkhead", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// What a command that failed has said.
fn message(mut said: File, exit: Exit) -> io::Result<CommandError> {
    let mut text = Vec::new();
    said.rewind()?;
    said.take(MAX_MESSAGE).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim();
    let text = text.strip_prefix("bulkhead: ").unwrap_or(text);
    Ok(CommandError::Failed(if text.is_empty() {
        format!("bulkhead ended with exit status {} and said nothing", exit.code())
    } else {
        text.to_owned()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_the_commands_words() {
        let said = |text: &str| {
            let file = file_of(text.as_bytes()).expect("a file");
            message(file, Exit::Code(1)).expect("readable").to_string()
        };
        assert_eq!(
            said("bulkhead: no kernel\n  guest: line\n"),
            "no kernel\n  guest: line"
        );
        assert_eq!(said(""), "bulkhead ended with exit status 1 and said nothing");
    }
}
