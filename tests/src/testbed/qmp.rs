//! QEMU's machine protocol, as much as is needed.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

/// QEMU answers in milliseconds; saving and restoring takes seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// A connection to QEMU's monitor.
pub struct Monitor {
    replies: BufReader<UnixStream>,
}

impl Monitor {
    /// Takes the monitor over: reads its greeting and negotiates.
    ///
    /// # Errors
    /// QEMU ended or does not speak QMP.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Self {
            replies: BufReader::new(socket),
        };
        monitor.read()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs one command and returns its result.
    ///
    /// # Errors
    /// QEMU's own, or it ended.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.replies.get_mut().write_all(line.as_bytes())?;
        self.result(command)
    }

    /// Hands QEMU a descriptor, which later commands call `name`.
    ///
    /// # Errors
    /// QEMU's own, or it ended.
    pub fn pass_fd(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let line = json!({ "execute": "getfd", "arguments": { "fdname": name } }).to_string();
        let fds = [fd.as_raw_fd()];
        let socket = self.replies.get_ref().as_raw_fd();
        let parts = [IoSlice::new(line.as_bytes())];
        sendmsg::<()>(
            socket,
            &parts,
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        )?;
        self.result("getfd").map(drop)
    }

    fn result(&mut self, command: &str) -> io::Result<Value> {
        loop {
            let mut reply = self.read()?;
            if let Some(error) = reply.get("error") {
                return Err(io::Error::other(format!("{command}: {}", error["desc"])));
            }
            if let Some(result) = reply.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Waits until a migration, in or out, ended.
    ///
    /// # Errors
    /// The migration failed, or QEMU ended.
    pub fn migration_end(&mut self) -> io::Result<()> {
        loop {
            let event = self.read()?;
            if event["event"] != "MIGRATION" {
                continue;
            }
            match event["data"]["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed") => return Err(io::Error::other("migration failed")),
                _ => {}
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
