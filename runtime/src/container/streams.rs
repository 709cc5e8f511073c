//! The workload's standard streams: each a connection of its own between the guest and the caller's stream.

use std::{io, process};

use bulkhead_agent_protocol::{STREAM_PORT, messages::Stdio};
use rustix::termios::Winsize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};

use super::stdio::{Direction, Endpoint, is_null};
use crate::sandbox::GuestSocket;

/// How much is copied at once.
const CHUNK: usize = 128 * 1024;

/// Streams that are connected to the agent and carry nothing yet.
#[derive(Default)]
pub struct Streams {
    stdin: Option<UnixStream>,
    stdout: Option<UnixStream>,
    stderr: Option<UnixStream>,
    terminal: Option<Winsize>,
}

/// Streams that are being copied.
pub struct Copying {
    outputs: Vec<JoinHandle<Result<(), OutputError>>>,
}

/// Output that the workload has written and the caller has not got.
#[derive(Debug, thiserror::Error)]
#[error("{stream}: {source}; output was lost")]
pub struct OutputError {
    stream: &'static str,
    source: io::Error,
}

/// What a stream is called: unique in the sandbox, as each stand-in on the host has another pid.
pub fn name(stream: &str) -> String {
    format!("{}-{stream}", process::id())
}

/// Connects the stream of that name.
///
/// # Errors
/// The agent does not take it.
pub async fn open(guest: &GuestSocket, stream: &str) -> io::Result<UnixStream> {
    guest
        .connect_and_say(STREAM_PORT, &format!("{}\n", name(stream)))
        .await
}

impl Streams {
    /// Connects one stream for each of the caller's that is not `/dev/null`; with a terminal, of the given size, one in
    /// each direction.
    ///
    /// # Errors
    /// The agent does not take them.
    pub async fn connect(guest: &GuestSocket, terminal: Option<Winsize>) -> io::Result<Self> {
        let with_terminal = terminal.is_some();
        let open = async |stream: &str, wanted: bool| -> io::Result<Option<UnixStream>> {
            if !wanted {
                return Ok(None);
            }
            open(guest, stream).await.map(Some)
        };
        let (stdin, stdout, stderr) = tokio::try_join!(
            open("stdin", with_terminal || !is_null(rustix::stdio::stdin())),
            open("stdout", with_terminal || !is_null(rustix::stdio::stdout())),
            open("stderr", !with_terminal && !is_null(rustix::stdio::stderr())),
        )?;
        Ok(Self {
            stdin,
            stdout,
            stderr,
            terminal,
        })
    }

    /// The streams as the agent is told of them.
    pub fn description(&self) -> Stdio {
        let named = |connection: &Option<UnixStream>, stream| {
            connection.as_ref().map_or_else(String::new, |_| name(stream))
        };
        Stdio {
            stdin: named(&self.stdin, "stdin"),
            stdout: named(&self.stdout, "stdout"),
            stderr: named(&self.stderr, "stderr"),
            terminal: self.terminal.is_some(),
            rows: self.terminal.map_or(0, |size| size.ws_row.into()),
            columns: self.terminal.map_or(0, |size| size.ws_col.into()),
            ..Stdio::default()
        }
    }

    /// Starts to copy.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn copy(self) -> io::Result<Copying> {
        if let Some(connection) = self.stdin {
            let from = Endpoint::of(rustix::stdio::stdin(), Direction::Input)?;
            // Input that never ends is no reason to stay, so nobody waits for this task.
            tokio::spawn(copy_in(from, connection));
        }
        let mut outputs = Vec::new();
        if let Some(connection) = self.stdout {
            let to = Endpoint::of(rustix::stdio::stdout(), Direction::Output)?;
            outputs.push(tokio::spawn(copy_out("stdout", connection, to)));
        }
        if let Some(connection) = self.stderr {
            let to = Endpoint::of(rustix::stdio::stderr(), Direction::Output)?;
            outputs.push(tokio::spawn(copy_out("stderr", connection, to)));
        }
        Ok(Copying { outputs })
    }
}

impl Copying {
    /// Waits until the last byte of output has been written, or nobody is there to take it.
    ///
    /// # Errors
    /// The first stream that could not be written, when all have ended.
    pub async fn drained(self) -> Result<(), OutputError> {
        let mut result = Ok(());
        for output in self.outputs {
            match output.await {
                Ok(ended) => result = result.and(ended),
                Err(error) => tracing::debug!(%error, "output"),
            }
        }
        result
    }
}

/// Copies to the guest until the input ends, or the workload no longer reads.
async fn copy_in(from: Endpoint, mut to: UnixStream) {
    let mut buffer = vec![0; CHUNK];
    let result: io::Result<()> = async {
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            to.write_all(buffer.get(..n).unwrap_or_default()).await?;
        }
    }
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, "input");
    }
    // The workload's end of file. It may have gone already.
    let _ = to.shutdown().await;
}

/// Copies from the guest until its end of file. When the output cannot be written, the connection is closed, so that the
/// workload finds a broken pipe as it would without us. That nobody reads any more is no error.
async fn copy_out(stream: &'static str, mut from: UnixStream, to: Endpoint) -> Result<(), OutputError> {
    let failed = |source| OutputError { stream, source };
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = from.read(&mut buffer).await.map_err(failed)?;
        if n == 0 {
            return Ok(());
        }
        match to.write_all(buffer.get(..n).unwrap_or_default()).await {
            Err(error) if nobody_reads(&error, &to) => return Ok(()),
            written => written.map_err(failed)?,
        }
    }
}

/// Whether the caller's side of a stream has gone: of a pipe, a socket, or a terminal.
fn nobody_reads(error: &io::Error, to: &Endpoint) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    ) || error.raw_os_error() == Some(libc::EIO) && matches!(to, Endpoint::Ready(_))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    async fn copied_to(output: impl AsFd) -> Result<(), OutputError> {
        let (mut guest, connection) = UnixStream::pair().expect("descriptors");
        guest.write_all(b"last words").await.expect("a reader");
        drop(guest);
        let to = Endpoint::of(output.as_fd(), Direction::Output).expect("an endpoint");
        copy_out("stdout", connection, to).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_that_finds_no_room_is_an_error() {
        let full = File::options().write(true).open("/dev/full").expect("a device");
        assert_eq!(
            copied_to(full).await.expect_err("no room").to_string(),
            "stdout: No space left on device (os error 28); output was lost"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_that_nobody_reads_is_no_error() {
        let (reader, writer) = io::pipe().expect("descriptors");
        drop(reader);
        copied_to(writer).await.expect("as without us");
    }
}
