//! A program that reads a container's output: descriptor 3 is what the container writes to its output, 4 to its errors, and
//! closing 5 says that the program is ready.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::oneshot};

use super::{
    descriptors,
    reaper::{End, Reaper},
};

/// How long a logger may take to end when there is nothing more to read.
const LAST_STEPS: Duration = Duration::from_secs(12);

/// Whose output it is.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The container, or the further process.
    pub id: &'a str,
    /// containerd's namespace.
    pub namespace: &'a str,
}

/// A logger does not read.
#[derive(Debug, thiserror::Error)]
#[error("logger {}: {source}", path.display())]
pub struct LoggerError {
    path: PathBuf,
    source: io::Error,
}

/// A logger that reads.
#[derive(Debug)]
pub struct Logger {
    pid: i32,
    end: oneshot::Receiver<End>,
}

impl Logger {
    /// Starts it, and returns when it is ready, with the pipes of output and errors.
    ///
    /// # Errors
    /// It cannot be executed, or ended at once.
    pub async fn start(
        path: &Path,
        arguments: &[String],
        origin: Origin<'_>,
        reaper: &Arc<Reaper>,
    ) -> Result<(Self, [OwnedFd; 2]), LoggerError> {
        let started = async {
            let ((output_end, output), (errors_end, errors)) = (io::pipe()?, io::pipe()?);
            let (ready, ready_end) = io::pipe()?;
            let mut command = Command::new(path);
            command
                .args(arguments)
                .env("CONTAINER_ID", origin.id)
                .env("CONTAINER_NAMESPACE", origin.namespace)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            descriptors::give(
                &mut command,
                [output_end.into(), errors_end.into(), ready_end.into()],
            )?;
            let expecting = reaper.expect();
            let child = command.spawn()?;
            drop(command);
            let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
            let end = expecting.end_of(pid);
            let mut ready = pipe::Receiver::from_owned_fd(ready.into())?;
            match ready.read_u8().await {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                // A byte is as good as the end.
                _ => {}
            }
            Ok((Self { pid, end }, [output.into(), errors.into()]))
        };
        started.await.map_err(|source| LoggerError {
            path: path.to_owned(),
            source,
        })
    }

    /// Waits until it has read everything and ended; one that takes too long is killed.
    pub async fn finish(mut self) {
        if tokio::time::timeout(LAST_STEPS, &mut self.end).await.is_err()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It is not reaped yet, so the number is its own.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
