//! Running commands in L1 from the host.

use std::env;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Error;
use super::channel::{Frame, Run, Setup, WindowSize};

/// How long L1 may take to answer a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How to reach the agent of an L1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// On the host.
    pub address: SocketAddr,
    /// What the agent wants to hear.
    pub token: String,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this code, or 128 plus the signal.
    Exit(i32),
    /// It took too long, and its session was killed.
    TimedOut,
}

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What feeds a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nothing: end of file at once.
    None,
    /// The caller's standard input. Its reader stays behind when the command ends, so this is for a process's last
    /// command.
    Inherit,
}

impl Endpoint {
    /// Tells a new L1 what it needs to finish booting.
    ///
    /// # Errors
    /// L1's own words, or it is gone.
    pub fn set_up(&self, setup: Setup) -> Result<(), Error> {
        let mut socket = self.connect().map_err(Error::Lost)?;
        socket
            .set_read_timeout(Some(Duration::from_secs(120)))
            .map_err(Error::Lost)?;
        Frame::Setup(setup).write(&mut socket).map_err(Error::Lost)?;
        match Frame::read(&mut socket).map_err(Error::Lost)? {
            Frame::Ready => Ok(()),
            Frame::Failed(why) => Err(Error::Command(why)),
            other => Err(Error::Command(format!("unexpected {other:?}"))),
        }
    }

    /// Runs a command to its end and hands its output on as it comes. `run.token` is filled in.
    ///
    /// # Errors
    /// The command does not start, or L1 is gone.
    pub fn run(
        &self,
        mut run: Run,
        input: Input,
        output: &mut dyn FnMut(Stream, &[u8]),
        limit: Option<Duration>,
    ) -> Result<Ended, Error> {
        self.token.clone_into(&mut run.token);
        let terminal = run.terminal;
        let mut socket = self.connect().map_err(Error::Lost)?;
        let deadline = limit.map(|limit| Instant::now() + limit);
        Frame::Run(run).write(&mut socket).map_err(Error::Lost)?;
        match input {
            Input::None => Frame::Stdin(Vec::new()).write(&mut socket).map_err(Error::Lost)?,
            Input::Inherit => forward_stdin(&socket, terminal).map_err(Error::Lost)?,
        }
        loop {
            let mut frame = Timed {
                socket: &socket,
                deadline,
            };
            match Frame::read(&mut frame) {
                Ok(Frame::Stdout(data)) => output(Stream::Stdout, &data),
                Ok(Frame::Stderr(data)) => output(Stream::Stderr, &data),
                Ok(Frame::Exit(code)) => return Ok(Ended::Exit(code)),
                Ok(Frame::Failed(why)) => return Err(Error::Command(why)),
                Ok(other) => return Err(Error::Command(format!("unexpected {other:?}"))),
                Err(error) if is_timeout(&error) => return Ok(Ended::TimedOut),
                Err(error) => return Err(Error::Lost(error)),
            }
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT)?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// What a command in L1 is told through the environment of whoever wants it run.
#[must_use]
pub fn inherited_environment() -> Vec<(String, String)> {
    env::vars()
        .filter(|(key, _)| key.starts_with("BULKHEAD_") || key == "RUST_BACKTRACE")
        .collect()
}

/// Reads with a deadline for the whole command, not for each read.
struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Option<Instant>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
        }
        self.socket.read(buffer)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn forward_stdin(socket: &TcpStream, terminal: Option<WindowSize>) -> io::Result<()> {
    let socket = Arc::new(Mutex::new(socket.try_clone()?));
    if terminal.is_some() {
        let socket = Arc::clone(&socket);
        super::terminal::on_resize(move |size| {
            let _ = Frame::Resize(size).write(&mut *socket.lock().expect("no holder panics"));
        });
    }
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = io::stdin().read(&mut buffer).unwrap_or(0);
            let frame = Frame::Stdin(buffer[..length].to_vec());
            let written = frame.write(&mut *socket.lock().expect("no holder panics"));
            if length == 0 || written.is_err() {
                return;
            }
        }
    });
    Ok(())
}
