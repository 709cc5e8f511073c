//! Carries bytes between a process and its streams.
//!
//! A process gets pipes, never a stream's socket: programs open `/dev/stdout` anew, which a socket does not allow. Each
//! stream ends when its last byte is through: stdin's pipe when the host has ended it, stdout and stderr when no process
//! has the pipe any more. When the host goes away early, the pipe is closed, and who writes to it learns so.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
};

use rustix::{
    fs::{Uid, fchown},
    io::Errno,
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::unix::pipe,
    sync::watch,
};

use super::terminal::Master;
use crate::{
    container::devices,
    failure::{Failure, Step},
    reaper::ExitReceiver,
    streams::Stream,
};

/// How much is carried at a time, and how much a pipe holds.
const CHUNK: usize = 256 * 1024;

/// The streams of one process.
#[derive(Default)]
pub struct Streams {
    /// From the host.
    pub stdin: Option<Stream>,
    /// To the host.
    pub stdout: Option<Stream>,
    /// To the host.
    pub stderr: Option<Stream>,
}

/// The ends that the process gets.
pub struct ProcessEnds {
    files: [OwnedFd; 3],
    null: [bool; 3],
}

impl ProcessEnds {
    /// The files for descriptors 0, 1 and 2.
    pub fn as_raw_fds(&self) -> [RawFd; 3] {
        self.files.each_ref().map(AsRawFd::as_raw_fd)
    }

    /// Which of them are `/dev/null`.
    pub fn null(&self) -> [bool; 3] {
        self.null
    }
}

/// The agent's ends.
pub struct AgentEnds {
    stdin: Option<(Stream, pipe::Sender)>,
    outputs: Vec<(pipe::Receiver, Stream)>,
}

/// Makes the pipes for a process that runs as `owner`.
///
/// # Errors
/// What pipe2(2) gives.
pub fn pipes(streams: Streams, owner: Uid) -> Result<(ProcessEnds, AgentEnds), Failure> {
    let mut null = [true; 3];
    let mut agent = AgentEnds {
        stdin: None,
        outputs: Vec::new(),
    };
    let mut file = |index: usize, stream: Option<Stream>| -> io::Result<OwnedFd> {
        let Some(stream) = stream else {
            return Ok(devices::null()?);
        };
        null[index] = false;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setpipe_size(&writer, CHUNK)?;
        let (process_end, agent_end) = if index == 0 {
            (reader, writer)
        } else {
            (writer, reader)
        };
        rustix::io::ioctl_fionbio(&agent_end, true)?;
        // The program may open it anew by its path.
        fchown(&process_end, Some(owner), None)?;
        if index == 0 {
            agent.stdin = Some((stream, pipe::Sender::from_owned_fd_unchecked(agent_end)?));
        } else {
            agent
                .outputs
                .push((pipe::Receiver::from_owned_fd_unchecked(agent_end)?, stream));
        }
        Ok(process_end)
    };
    let mut make = |index, stream| file(index, stream).step(|| "make a pipe");
    let files = [
        make(0, streams.stdin)?,
        make(1, streams.stdout)?,
        make(2, streams.stderr)?,
    ];
    Ok((ProcessEnds { files, null }, agent))
}

/// Files for a process whose streams will be a terminal.
///
/// # Errors
/// What opening `/dev/null` gives.
pub fn none() -> Result<ProcessEnds, Failure> {
    let null = || devices::null().step(|| "open /dev/null");
    Ok(ProcessEnds {
        files: [null()?, null()?, null()?],
        null: [true; 3],
    })
}

/// Whether outputs have come to their end with the process whose they are, once it has ended: false for one that other
/// processes still hold open. All that the process itself wrote has been carried by then.
#[derive(Debug, Default)]
pub struct Outputs(Vec<watch::Receiver<Option<bool>>>);

impl Outputs {
    /// Waits for the end of the process. Answers whether all have ended with it.
    pub async fn ended(&self) -> bool {
        let mut all = true;
        for output in &self.0 {
            // A carrier that says nothing any more has nothing to carry.
            let ended = output
                .clone()
                .wait_for(Option::is_some)
                .await
                .map_or(Some(true), |ended| *ended);
            all &= ended != Some(false);
        }
        all
    }
}

impl AgentEnds {
    /// Carries bytes in the background, until both sides have ended. `exit` is the process's.
    pub fn carry(self, exit: &ExitReceiver) -> Outputs {
        if let Some((stream, pipe)) = self.stdin {
            tokio::spawn(feed(stream, pipe));
        }
        let drained = self.outputs.into_iter().map(|(pipe, stream)| {
            let (sender, receiver) = watch::channel(None);
            tokio::spawn(drain(pipe, stream, exit.clone(), sender));
            receiver
        });
        Outputs(drained.collect())
    }
}

/// An error of either side ends the stream, and nothing else can be done about it.
async fn feed(mut stream: Stream, mut pipe: pipe::Sender) {
    let _: io::Result<()> = async {
        let mut buffer = std::mem::take(&mut stream.early);
        loop {
            pipe.write_all(&buffer).await?;
            buffer.clear();
            buffer.reserve(CHUNK);
            tokio::select! {
                read = stream.connection.read_buf(&mut buffer) => if read? == 0 { return Ok(()) },
                // No process can read any more.
                _ = pipe.ready(Interest::ERROR) => return Ok(()),
            }
        }
    }
    .await;
}

async fn drain(
    mut pipe: pipe::Receiver,
    mut stream: Stream,
    mut exit: ExitReceiver,
    ended: watch::Sender<Option<bool>>,
) {
    let _: io::Result<()> = async {
        let mut buffer = Vec::with_capacity(CHUNK);
        loop {
            let is_running = ended.borrow().is_none();
            let read = tokio::select! {
                biased;
                read = pipe.read_buf(&mut buffer) => read?,
                () = wait_for_end(&mut exit), if is_running => match read_now(&pipe, &mut buffer) {
                    // All that the process wrote itself has been carried.
                    Err(Errno::AGAIN) => {
                        ended.send_replace(Some(false));
                        continue;
                    }
                    read => read?,
                },
            };
            if read == 0 {
                return stream.connection.shutdown().await;
            }
            stream.connection.write_all(&buffer).await?;
            buffer.clear();
        }
    }
    .await;
    ended.send_replace(Some(true));
}

async fn wait_for_end(exit: &mut ExitReceiver) {
    // A process of which nothing will be known is as good as ended.
    let _ = exit.wait_for(Option::is_some).await;
}

/// What is in a pipe now. The event loop may not have been told of it yet.
fn read_now(pipe: &pipe::Receiver, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::io::read(pipe, rustix::buffer::spare_capacity(buffer)))
}

/// Carries bytes between a terminal and its streams in the background. The end of stdin does not end the terminal: a
/// user who means it types it.
pub fn carry_terminal(master: &Arc<Master>, streams: Streams) {
    if let Some(mut stream) = streams.stdin {
        let master = Arc::clone(master);
        tokio::spawn(async move {
            let _: io::Result<()> = async {
                let mut buffer = std::mem::take(&mut stream.early);
                loop {
                    master.write_all(&buffer).await?;
                    buffer.clear();
                    if stream.connection.read_buf(&mut buffer).await? == 0 {
                        return Ok(());
                    }
                }
            }
            .await;
        });
    }
    if let Some(mut stream) = streams.stdout {
        let master = Arc::clone(master);
        tokio::spawn(async move {
            let _: io::Result<()> = async {
                let mut buffer = vec![0; 64 * 1024];
                loop {
                    let length = master.read(&mut buffer).await?;
                    if length == 0 {
                        return stream.connection.shutdown().await;
                    }
                    stream
                        .connection
                        .write_all(buffer.get(..length).unwrap_or_default())
                        .await?;
                }
            }
            .await;
        });
    }
}

/// Replaces the standard files that are the guest's `/dev/null` by the container's, if that is what it seems to be, so
/// that their names are right inside.
pub fn reopen_null(root: BorrowedFd<'_>, null: [bool; 3]) {
    let Ok(own) = devices::open_verified(root, std::path::Path::new("/dev/null"), (1, 3)) else {
        return;
    };
    for (number, _) in (0..).zip(null).filter(|(_, null)| *null) {
        // SAFETY: the process that is being set up owns none of 0, 1 and 2 by an object that closes them.
        let _ = unsafe { crate::syscalls::duplicate_to(own.as_fd().as_raw_fd(), number, true) };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::reaper::Exit;

    fn stream(early: &[u8]) -> (DuplexStream, Stream) {
        let (host, guest) = duplex(1 << 16);
        let stream = Stream {
            early: early.to_vec(),
            connection: Box::new(guest),
        };
        (host, stream)
    }

    #[tokio::test]
    async fn every_byte_comes_through_in_both_directions() {
        const LENGTH: usize = 3 << 20;
        let (mut stdin, guest_stdin) = stream(b"early");
        let (mut stdout, guest_stdout) = stream(b"");
        let streams = Streams {
            stdin: Some(guest_stdin),
            stdout: Some(guest_stdout),
            stderr: None,
        };
        let (process, agent) = pipes(streams, Uid::ROOT).unwrap();
        assert_eq!(process.null(), [false, false, true]);
        let (_running, exit) = watch::channel(None);
        agent.carry(&exit);
        // The program blocks in a thread of its own, as a process would.
        let program = std::thread::spawn(move || {
            let [reader, writer, _] = process.files;
            let mut all = Vec::new();
            File::from(reader).read_to_end(&mut all).unwrap();
            File::from(writer).write_all(&all).unwrap();
        });
        let feeder = tokio::spawn(async move {
            stdin.write_all(&vec![7; LENGTH]).await.unwrap();
            stdin.shutdown().await.unwrap();
        });
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), LENGTH + 5);
        assert!(all.starts_with(b"early"));
        feeder.await.unwrap();
        program.join().unwrap();
    }

    #[tokio::test]
    async fn a_host_that_goes_away_breaks_the_pipe() {
        let (host, guest) = stream(b"");
        let streams = Streams {
            stdout: Some(guest),
            ..Streams::default()
        };
        let (process, agent) = pipes(streams, Uid::ROOT).unwrap();
        let (_running, exit) = watch::channel(None);
        agent.carry(&exit);
        drop(host);
        let [_, writer, _] = process.files;
        let mut writer = File::from(writer);
        let broken = async {
            loop {
                if let Err(error) = writer.write_all(b"x") {
                    break error.kind();
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(broken.await, io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn the_host_learns_that_nobody_reads() {
        let (mut host, guest) = stream(b"");
        let streams = Streams {
            stdin: Some(guest),
            ..Streams::default()
        };
        let (process, agent) = pipes(streams, Uid::ROOT).unwrap();
        let (_running, exit) = watch::channel(None);
        agent.carry(&exit);
        drop(process);
        assert_eq!(host.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn output_ends_with_the_process_unless_others_hold_it() {
        let ended = Exit {
            code: 0,
            signal: 0,
            at_nanos: 0,
        };
        for is_held in [false, true] {
            let (mut host, guest) = stream(b"");
            let streams = Streams {
                stdout: Some(guest),
                ..Streams::default()
            };
            let (process, agent) = pipes(streams, Uid::ROOT).unwrap();
            let (running, exit) = watch::channel(None);
            let outputs = agent.carry(&exit);
            let [_, writer, _] = process.files;
            let heir = is_held.then(|| writer.try_clone().unwrap());
            File::from(writer).write_all(b"last words").unwrap();
            running.send_replace(Some(ended));
            assert_eq!(outputs.ended().await, !is_held);
            let mut words = [0; 10];
            host.read_exact(&mut words).await.unwrap();
            assert_eq!(&words, b"last words");
            drop(heir);
            assert_eq!(host.read(&mut words).await.unwrap(), 0);
        }
    }
}
