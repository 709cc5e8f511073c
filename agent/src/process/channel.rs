//! The socket pair between the agent and a process that is being set up: one message a packet. It closes at exec, so
//! that end of file without a failure before it says that the program runs.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::failure::Failure;

/// The longest message; a longer failure is cut.
const MAX_MESSAGE: usize = 4096;

const TERMINAL: u8 = b'T';
const READY: u8 = b'R';
const FAILED: u8 = b'F';
const GO: u8 = b'G';

/// What the process says.
#[derive(Debug)]
pub enum Message {
    /// The master of its pseudo-terminal.
    Terminal(OwnedFd),
    /// All is set up, and it waits for the start.
    Ready,
    /// The set-up failed, and it ends.
    Failed(Failure),
    /// It has executed its program, or has been killed.
    Closed,
}

/// A fresh pair: the agent's end and the process's.
///
/// # Errors
/// What socketpair(2) gives.
pub fn pair() -> io::Result<(AgentEnd, OwnedFd)> {
    let (agent, process) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&agent, true)?;
    // SAFETY: the descriptor stays open, and the same, as long as the object that owns it.
    let agent =
        unsafe { AsyncFd::register_with_interest(agent, Interest::READABLE) }.map_err(io::Error::from)?;
    Ok((AgentEnd(agent), process))
}

/// The agent's end.
#[derive(Debug)]
pub struct AgentEnd(AsyncFd<OwnedFd>);

impl AgentEnd {
    /// The next message.
    pub async fn receive(&self) -> Message {
        let result = self
            .0
            .async_io(Interest::READABLE, |fd| Ok(receive(fd.as_fd())?))
            .await;
        result.unwrap_or(Message::Closed)
    }

    /// Lets the process go on. A process that is gone is found out by [`Self::receive`].
    pub fn go(&self) {
        let _ = rustix::net::send(self.0.get_ref(), &[GO], SendFlags::NOSIGNAL);
    }
}

fn receive(socket: BorrowedFd<'_>) -> Result<Message, Errno> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(match (bytes.get(..received.bytes), descriptor) {
        (Some([TERMINAL]), Some(master)) => Message::Terminal(master),
        (Some([READY]), _) => Message::Ready,
        (Some([FAILED, text @ ..]), _) => Message::Failed(Failure::new(String::from_utf8_lossy(text))),
        _ => Message::Closed,
    })
}

/// The process's end. Errors of sending are not looked at: without the agent there is nobody to tell.
#[derive(Debug)]
pub struct ProcessEnd(OwnedFd);

impl ProcessEnd {
    /// Takes over the end that [`pair`] has made.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Its number.
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Hands over the master of the pseudo-terminal.
    pub fn send_terminal(&self, master: BorrowedFd<'_>) {
        let descriptors = [master];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let _ = sendmsg(
            &self.0,
            &[IoSlice::new(&[TERMINAL])],
            &mut control,
            SendFlags::NOSIGNAL,
        );
    }

    /// Says that all is set up.
    pub fn send_ready(&self) {
        let _ = rustix::net::send(&self.0, &[READY], SendFlags::NOSIGNAL);
    }

    /// Says what failed.
    pub fn send_failure(&self, failure: &Failure) {
        let mut message = vec![FAILED];
        message.extend_from_slice(failure.to_string().as_bytes());
        message.truncate(MAX_MESSAGE);
        let _ = rustix::net::send(&self.0, &message, SendFlags::NOSIGNAL);
    }

    /// Waits until the agent lets the process go on.
    ///
    /// # Errors
    /// When the agent has given it up.
    pub fn wait_for_go(&self) -> Result<(), Failure> {
        let mut byte = [0];
        match rustix::io::read(&self.0, &mut byte) {
            Ok(1) if byte == [GO] => Ok(()),
            _ => Err(Failure::new("given up")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_in_order_and_then_the_end() {
        let (agent, process) = pair().unwrap();
        let process = ProcessEnd::new(process);
        process.send_terminal(io::stdin().as_fd());
        process.send_ready();
        process.send_failure(&Failure::new("mount /proc: Permission denied"));
        agent.go();
        process.wait_for_go().unwrap();
        drop(process);
        assert!(matches!(agent.receive().await, Message::Terminal(_)));
        assert!(matches!(agent.receive().await, Message::Ready));
        let Message::Failed(failure) = agent.receive().await else {
            panic!()
        };
        assert_eq!(failure.to_string(), "mount /proc: Permission denied");
        assert!(matches!(agent.receive().await, Message::Closed));
    }

    #[tokio::test]
    async fn a_process_without_agent_does_not_wait() {
        let (agent, process) = pair().unwrap();
        drop(agent);
        ProcessEnd::new(process).wait_for_go().unwrap_err();
    }
}
