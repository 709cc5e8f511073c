//! The connections that the guest opens to the host, handed over by the VMM.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    os::unix::net::UnixStream as StdUnixStream,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

use crate::readiness::watch;

/// The runtime's end of [`bulkhead_vmm::config::VsockConfig::uplink`]. Dropping it refuses all further connections.
pub struct Uplink {
    socket: AsyncFd<OwnedFd>,
}

impl Uplink {
    /// Makes both ends; the second is the VMM's. Called inside a tokio runtime.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((
            Self {
                socket: watch(ours, Interest::READABLE)?,
            },
            theirs,
        ))
    }

    /// Waits for the guest's first connection to `port` of the host. Connections to other ports are closed.
    ///
    /// # Errors
    /// `UnexpectedEof` when the VMM has closed its end.
    pub async fn accept(self, port: u32) -> io::Result<UnixStream> {
        loop {
            let message = self.socket.async_io(Interest::READABLE, receive).await?;
            if let Some(connection) = message
                .filter(|(to, _)| *to == port)
                .map(|(_, connection)| connection)
            {
                let stream = StdUnixStream::from(connection);
                stream.set_nonblocking(true)?;
                return UnixStream::from_std(stream);
            }
        }
    }
}

/// Takes one message: the port, and the connection's end. None if it is not of that form.
fn receive(socket: &OwnedFd) -> io::Result<Option<(u32, OwnedFd)>> {
    let mut port = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(&mut port)],
        &mut ancillary,
        flags,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let connection = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let is_whole = received.bytes == port.len();
    Ok(connection
        .filter(|_| is_whole)
        .map(|connection| (u32::from_le_bytes(port), connection)))
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn send(to: &OwnedFd, bytes: &[u8], connection: Option<&OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = connection.iter().map(|c| c.as_fd()).collect();
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).expect("room for a message");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_connection_to_the_port_is_taken_and_what_is_malformed_is_not() {
        let (uplink, vmm) = Uplink::pair().expect("descriptors");
        let (wrong, _wrong_far) = StdUnixStream::pair().expect("descriptors");
        let (near, mut far) = StdUnixStream::pair().expect("descriptors");
        send(&vmm, &1025u32.to_le_bytes(), Some(&wrong.into()));
        send(&vmm, &1024u32.to_le_bytes(), None);
        send(&vmm, b"xy", None);
        send(&vmm, &1024u32.to_le_bytes(), Some(&near.into()));
        let mut stream = uplink.accept(1024).await.expect("a connection");
        stream.write_all(b"hello").await.expect("connected");
        drop(stream);
        let mut text = String::new();
        far.read_to_string(&mut text).expect("connected");
        assert_eq!(text, "hello");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_vmm_that_has_gone_is_an_end_of_file() {
        let (uplink, vmm) = Uplink::pair().expect("descriptors");
        drop(vmm);
        let error = uplink.accept(1024).await.expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
