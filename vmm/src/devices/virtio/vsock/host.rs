//! How programs on the host and the VMM agree on a connection: the listener's handshake and the uplink.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::packet::PORT_ANY;
use super::socket::HostSocket;

/// The longest line: `CONNECT 4294967294\n`.
const MAX_LINE: usize = 19;

/// How far a client of the listener has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It asks for this port of the guest. What it has sent after the line is still in the socket.
    Connect(u32),
    /// Its line is not complete.
    Incomplete,
    /// It said something else, or went away.
    Refused,
}

/// Reads a client's `CONNECT <port>\n` line, once it is there as a whole.
pub fn handshake(socket: &HostSocket) -> Handshake {
    let mut bytes = [0; MAX_LINE];
    let seen = match socket.peek(&mut bytes) {
        Ok(0) => return Handshake::Refused,
        Ok(seen) => bytes.get(..seen).unwrap_or_default(),
        Err(Errno::EAGAIN) => return Handshake::Incomplete,
        Err(_) => return Handshake::Refused,
    };
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        return if seen.len() < MAX_LINE {
            Handshake::Incomplete
        } else {
            Handshake::Refused
        };
    };
    let Some(port) = seen.get(..end).and_then(parse_connect) else {
        return Handshake::Refused;
    };
    match bytes.get_mut(..=end).map(|line| socket.discard(line)) {
        Some(Ok(taken)) if taken == end + 1 => Handshake::Connect(port),
        _ => Handshake::Refused,
    }
}

/// The port of a `CONNECT <port>` line.
fn parse_connect(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|&port| port != PORT_ANY)
}

/// Hands one end of a fresh socket pair to the other side of `uplink`, for a connection of the guest to `port`, and
/// returns the other end.
pub fn hand_out(uplink: &OwnedFd, port: u32) -> std::io::Result<HostSocket> {
    let (ours, theirs) = UnixStream::pair()?;
    let descriptors = [theirs.as_raw_fd()];
    sendmsg::<()>(
        uplink.as_raw_fd(),
        &[IoSlice::new(&port.to_le_bytes())],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(HostSocket::new(ours))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use proptest::prelude::*;

    use super::*;

    fn handshake_of(bytes: &[u8]) -> (Handshake, HostSocket, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        let socket = HostSocket::new(ours);
        (handshake(&socket), socket, theirs)
    }

    #[test]
    fn a_line_byte_by_byte() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = HostSocket::new(ours);
        for byte in b"CONNECT 4294967294" {
            theirs.write_all(&[*byte]).unwrap();
            assert_eq!(handshake(&socket), Handshake::Incomplete);
        }
        theirs.write_all(b"\nrest").unwrap();
        assert_eq!(handshake(&socket), Handshake::Connect(4_294_967_294));
        let mut rest = [0; 8];
        assert_eq!(socket.peek(&mut rest).unwrap(), 4);
        assert_eq!(&rest[..4], b"rest");
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            "\n",
            "CONNECT\n",
            "CONNECT \n",
            "CONNECT +5\n",
            "CONNECT -5\n",
            "connect 5\n",
            "CONNECT 5 \n",
            "CONNECT 0x5\n",
            "CONNECT 4294967295\n",
            "CONNECT 4294967296\n",
            " CONNECT 5\n",
            "CONNECT 5\r\n",
            "CONNECT 000000000000005\n",
            "GET / HTTP/1.1 and more\n",
            "CONNECT 99999999999999999999999999",
        ] {
            assert_eq!(handshake_of(line.as_bytes()).0, Handshake::Refused, "{line:?}");
        }
    }

    #[test]
    fn a_client_that_leaves_is_refused() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(handshake(&HostSocket::new(ours)), Handshake::Refused);
    }

    #[test]
    fn an_uplink_without_a_listener_refuses() {
        let (ours, theirs) = nix::sys::socket::socketpair(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::SeqPacket,
            None,
            nix::sys::socket::SockFlag::empty(),
        )
        .unwrap();
        let mut handed_out = Vec::new();
        while let Ok(socket) = hand_out(&ours, 5) {
            handed_out.push(socket);
            assert!(handed_out.len() < 10_000, "the uplink never fills up");
        }
        assert!(!handed_out.is_empty());
        drop(theirs);
        assert!(hand_out(&ours, 5).is_err());
        for socket in handed_out {
            assert_eq!(socket.peek(&mut [0]), Ok(0));
        }
    }

    proptest! {
        #[test]
        fn never_takes_what_is_not_its_own(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 1..64),
            "(CONNECT [0-9]{1,11}\n?)?[a-zA-Z \n]{0,20}".prop_map(String::into_bytes).prop_filter("empty", |b| !b.is_empty()),
        ]) {
            let (got, socket, theirs) = handshake_of(&bytes);
            drop(theirs);
            let mut left = vec![0; 100];
            let left_len = socket.discard(&mut left).unwrap_or(0);
            match got {
                Handshake::Connect(port) => {
                    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
                    let line = String::from_utf8(bytes[..end].to_vec()).unwrap();
                    prop_assert_eq!(line.strip_prefix("CONNECT ").unwrap().parse::<u32>().unwrap(), port);
                    prop_assert_eq!(&left[..left_len], &bytes[end + 1..]);
                }
                Handshake::Incomplete => prop_assert!(!bytes.contains(&b'\n')),
                Handshake::Refused => prop_assert_eq!(left_len, bytes.len()),
            }
        }
    }

    #[test]
    fn the_uplink_carries_port_and_socket() {
        use nix::sys::socket::{AddressFamily, ControlMessageOwned, SockFlag, SockType, recvmsg, socketpair};
        use std::os::fd::FromRawFd;

        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
        let socket = hand_out(&ours, 0x0102_0304).unwrap();
        let mut bytes = [0; 8];
        let mut space = nix::cmsg_space!(RawFdArray);
        let mut vectors = [std::io::IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(
            theirs.as_raw_fd(),
            &mut vectors,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .unwrap();
        let descriptor = match message.cmsgs().unwrap().next() {
            Some(ControlMessageOwned::ScmRights(descriptors)) => descriptors[0],
            other => panic!("{other:?}"),
        };
        let length = message.bytes;
        // SAFETY: the message made this descriptor, and nobody else owns it.
        let mut stream = unsafe { UnixStream::from_raw_fd(descriptor) };
        assert_eq!(&bytes[..length], &[4, 3, 2, 1]);
        socket.write_bytes(b"hi").unwrap();
        let mut hi = [0; 2];
        stream.read_exact(&mut hi).unwrap();
        assert_eq!(&hi, b"hi");
    }

    /// The descriptors that one message of the uplink carries.
    type RawFdArray = [std::os::fd::RawFd; 1];
}
