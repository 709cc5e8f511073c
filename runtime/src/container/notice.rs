//! What a monitor tells the process that started it, over their socket pair: one JSON document a line.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
};

use serde::{Deserialize, Serialize};

use super::Failure;

/// What a monitor tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub enum Notice {
    /// The stand-in, its namespaces and its record are there: the hooks that come before the container can be run. It goes
    /// on when it is told to.
    Prepared,
    /// The container waits at its start gate.
    Created,
    /// The program has been executed, as the caller has asked for.
    Running,
    /// A signal came before that; nothing goes on.
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// Something went wrong.
    Failed {
        /// One line.
        message: String,
        /// The last lines of the guest's console, oldest first, as far as they tell something about it.
        console: Vec<String>,
    },
}

impl Notice {
    /// Of a failure.
    pub fn of(failure: &Failure) -> Self {
        Self::Failed {
            message: failure.to_string(),
            console: failure.console().to_vec(),
        }
    }

    /// As it travels.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The caller's end of the socket pair.
#[derive(Debug)]
pub struct Notices {
    stream: UnixStream,
    received: Vec<u8>,
}

/// What reading from a [`Notices`] gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole notice.
    Notice(Notice),
    /// Less than one; there may be more to come.
    Nothing,
    /// The monitor's end is closed.
    End,
}

impl Notices {
    /// For that end of the pair.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// The socket, readable when there may be a notice.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Takes the next notice; to be called when the socket is readable, and again until there is nothing.
    ///
    /// # Errors
    /// The socket's, or a line that is no notice.
    pub fn receive(&mut self) -> io::Result<Received> {
        if !self.received.contains(&b'\n') {
            let mut chunk = [0; 4096];
            let n = rustix::net::recv(&self.stream, &mut chunk, rustix::net::RecvFlags::DONTWAIT);
            match n {
                Ok((0, _)) => return Ok(Received::End),
                Ok((n, _)) => self
                    .received
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Received::Nothing),
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::End),
                Err(e) => return Err(e.into()),
            }
        }
        let Some(end) = self.received.iter().position(|byte| *byte == b'\n') else {
            return Ok(Received::Nothing);
        };
        let line: Vec<u8> = self.received.drain(..=end).collect();
        Ok(Received::Notice(serde_json::from_slice(&line)?))
    }

    /// Lets the monitor go on: after [`Notice::Prepared`], and to the start of the program.
    ///
    /// # Errors
    /// The socket's: the monitor has gone.
    pub fn go(&mut self) -> io::Result<()> {
        self.stream.write_all(b"!")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_arrive_one_by_one_and_then_the_end() {
        let (ours, mut monitors) = UnixStream::pair().expect("descriptors");
        let mut notices = Notices::new(ours);
        assert_eq!(notices.receive().expect("open"), Received::Nothing);
        let failed = Notice::Failed {
            message: "no \n end".to_owned(),
            console: vec!["line".to_owned()],
        };
        let both = [Notice::Created.line(), failed.line()].concat();
        let (first, second) = both.split_at(30);
        monitors.write_all(first).expect("a reader");
        assert_eq!(
            notices.receive().expect("open"),
            Received::Notice(Notice::Created)
        );
        assert_eq!(notices.receive().expect("open"), Received::Nothing);
        monitors.write_all(second).expect("a reader");
        drop(monitors);
        assert_eq!(notices.receive().expect("open"), Received::Notice(failed));
        assert_eq!(notices.receive().expect("closed"), Received::End);
    }
}
