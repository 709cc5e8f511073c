//! The caller's standard streams, read and written without a thread and without changing them for others.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{Interest, unix::AsyncFd};

use crate::readiness::watch;

/// The number of `/dev/null`: major 1, minor 3.
const DEV_NULL: u64 = libc::makedev(1, 3);

/// One of the caller's streams.
///
/// `O_NONBLOCK` belongs to the open file, which the caller and others share, so it is not set there: a pipe or terminal is
/// opened anew, a socket is asked per call, and what never blocks for long is used as it is.
pub enum Endpoint {
    /// A regular file, or a device that epoll does not know.
    Plain(File),
    /// A pipe or terminal, opened anew.
    Ready(AsyncFd<OwnedFd>),
    /// A socket.
    Socket(AsyncFd<OwnedFd>),
}

/// The direction of an [`Endpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The workload's input.
    Input,
    /// The workload's output.
    Output,
}

impl Endpoint {
    /// The stream behind a descriptor. Called inside a tokio runtime.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn of(descriptor: BorrowedFd<'_>, direction: Direction) -> io::Result<Self> {
        let file = File::from(descriptor.try_clone_to_owned()?);
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        let interest = match direction {
            Direction::Input => Interest::READABLE,
            Direction::Output => Interest::WRITABLE,
        };
        if kind.is_socket() {
            return Ok(Self::Socket(watch(file.into(), interest)?));
        }
        if kind.is_fifo() || rustix::termios::isatty(&file) && !is_terminal_master(&metadata) {
            let anew = OpenOptions::new()
                .read(direction == Direction::Input)
                .write(direction == Direction::Output)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
            // A pipe without a reader cannot be opened for writing: the plain one says EPIPE when it is written.
            if let Ok(anew) = anew {
                return Ok(Self::Ready(watch(anew.into(), interest)?));
            }
        }
        Ok(Self::Plain(file))
    }

    /// Reads what there is, waiting for the first byte. Zero is the end of file.
    ///
    /// # Errors
    /// The stream's.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => retry(|| (&*file).read(buffer)),
            Self::Ready(file) => {
                let read = |file: &OwnedFd| Ok(rustix::io::read(file, &mut *buffer)?);
                file.async_io(Interest::READABLE, read).await
            }
            Self::Socket(socket) => {
                let receive =
                    |socket: &OwnedFd| Ok(rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?.0);
                socket.async_io(Interest::READABLE, receive).await
            }
        }
    }

    /// Writes everything.
    ///
    /// # Errors
    /// The stream's; `BrokenPipe` when nobody reads.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Plain(file) => retry(|| (&*file).write(bytes))?,
                Self::Ready(file) => {
                    let write = |file: &OwnedFd| Ok(rustix::io::write(file, bytes)?);
                    file.async_io(Interest::WRITABLE, write).await?
                }
                Self::Socket(socket) => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    let send = |socket: &OwnedFd| Ok(rustix::net::send(socket, bytes, flags)?);
                    socket.async_io(Interest::WRITABLE, send).await?
                }
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether a descriptor is `/dev/null`, so that no byte needs to cross.
pub fn is_null(descriptor: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == DEV_NULL
    })
}

/// Whether a terminal is the master's side, of which opening it anew makes another terminal.
fn is_terminal_master(metadata: &std::fs::Metadata) -> bool {
    libc::major(metadata.rdev()) == 5 && libc::minor(metadata.rdev()) == 2
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, os::unix::net::UnixStream, process::Command};

    use super::*;

    /// Writes much more than a pipe or socket holds while the other side reads slowly, and compares.
    async fn everything_arrives(input: BorrowedFd<'_>, output: BorrowedFd<'_>) {
        let sent: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
        let output = Endpoint::of(output, Direction::Output).expect("an endpoint");
        let input = Endpoint::of(input, Direction::Input).expect("an endpoint");
        let mut received = Vec::new();
        let mut buffer = [0; 1000];
        let read = async {
            while received.len() < sent.len() {
                let n = input.read(&mut buffer).await.expect("readable");
                received.extend_from_slice(&buffer[..n]);
            }
        };
        let ((), written) = tokio::join!(read, output.write_all(&sent));
        written.expect("writable");
        assert!(received == sent);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_pipe_that_is_full_is_waited_for() {
        let (input, output) = io::pipe().expect("descriptors");
        everything_arrives(input.as_fd(), output.as_fd()).await;
        let flags = rustix::fs::fcntl_getfl(&output).expect("flags");
        assert!(
            !flags.contains(rustix::fs::OFlags::NONBLOCK),
            "the shared open file is as it was"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_is_full_is_waited_for() {
        let (input, output) = UnixStream::pair().expect("descriptors");
        everything_arrives(input.as_fd(), output.as_fd()).await;
        let flags = rustix::fs::fcntl_getfl(&output).expect("flags");
        assert!(
            !flags.contains(rustix::fs::OFlags::NONBLOCK),
            "the shared open file is as it was"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_regular_file_keeps_its_position() {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(b"before ").expect("writable");
        let output = Endpoint::of(file.as_fd(), Direction::Output).expect("an endpoint");
        output.write_all(b"after").await.expect("writable");
        io::Seek::rewind(&mut file).expect("seekable");
        let input = Endpoint::of(file.as_fd(), Direction::Input).expect("an endpoint");
        let mut text = [0; 32];
        let n = input.read(&mut text).await.expect("readable");
        assert_eq!(&text[..n], b"before after");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_reading_is_a_broken_pipe() {
        let (input, output) = io::pipe().expect("descriptors");
        let early = Endpoint::of(output.as_fd(), Direction::Output).expect("an endpoint");
        drop(input);
        let late = Endpoint::of(output.as_fd(), Direction::Output).expect("an endpoint");
        for endpoint in [early, late] {
            let error = endpoint.write_all(b"x").await.expect_err("nobody reads");
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_pipe_whose_writer_ends_is_at_its_end() {
        let mut child = Command::new("true")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a program");
        let pipe = child.stdout.take().expect("piped");
        let input = Endpoint::of(pipe.as_fd(), Direction::Input).expect("an endpoint");
        assert_eq!(input.read(&mut [0; 8]).await.expect("readable"), 0);
        child.wait().expect("a child");
    }

    #[test]
    fn only_the_null_device_is_null() {
        assert!(is_null(File::open("/dev/null").expect("a device").as_fd()));
        assert!(!is_null(File::open("/dev/zero").expect("a device").as_fd()));
        assert!(!is_null(tempfile::tempfile().expect("temporary file").as_fd()));
    }
}
