//! One client of the control socket: bytes in, lines out, and back.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::Response;

/// The longest request in bytes, without its line end.
pub const LONGEST_REQUEST: usize = 4096;

/// A line that a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A request, perhaps.
    Complete(Vec<u8>),
    /// One that is longer than [`LONGEST_REQUEST`] and whose bytes are lost.
    TooLong,
}

/// What a client waits for, whose answer comes when it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Every processor is paused.
    Pause,
    /// The guest has more memory than that many MiB, or all that it is to have.
    Memory(u32),
}

/// A connected client.
pub struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    /// Whether the line that is coming in is too long and its bytes are dropped.
    dropping: bool,
    attached: Option<File>,
    output: Vec<u8>,
    /// What it waits for, if it does.
    pub awaits: Option<Awaited>,
}

impl Client {
    /// A client that has just connected.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream,
            input: Vec::new(),
            dropping: false,
            attached: None,
            output: Vec::new(),
            awaits: None,
        })
    }

    /// What to wait for: a request is read when the one before it has been answered and the answer taken.
    pub fn interest(&self) -> EventSet {
        if !self.output.is_empty() {
            EventSet::OUT
        } else if self.awaits.is_some() {
            EventSet::empty()
        } else {
            EventSet::IN
        }
    }

    /// Reads what has come. Returns whether there can be more: not after the end of the stream.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; LONGEST_REQUEST];
        let (count, file) = match self.stream.recv_with_fd(&mut bytes) {
            Ok(received) => received,
            Err(error) if error.errno() == libc::EAGAIN => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if file.is_some() {
            self.attached = file;
        }
        self.input
            .extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// The next line of what has been read, if it is complete or too long already.
    pub fn next_line(&mut self) -> Option<Line> {
        let end = self.input.iter().position(|byte| *byte == b'\n');
        if self.dropping {
            self.input.drain(..end.map_or(self.input.len(), |end| end + 1));
            self.dropping = end.is_none();
            return if self.dropping { None } else { self.next_line() };
        }
        match end {
            Some(end) if end <= LONGEST_REQUEST => {
                let mut line: Vec<_> = self.input.drain(..=end).collect();
                line.pop();
                Some(Line::Complete(line))
            }
            None if self.input.len() <= LONGEST_REQUEST => None,
            _ => {
                self.dropping = true;
                Some(Line::TooLong)
            }
        }
    }

    /// The descriptor that came with the request, once.
    pub fn take_attached(&mut self) -> Option<File> {
        self.attached.take()
    }

    /// Sends a response, as far as the client takes it; the rest follows by [`Client::flush`].
    pub fn respond(&mut self, response: &Response) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, response)?;
        self.output.push(b'\n');
        self.flush()
    }

    /// Sends what the client has not taken yet.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether it can be asked for its next line.
    pub fn is_ready(&self) -> bool {
        self.output.is_empty() && self.awaits.is_none()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
