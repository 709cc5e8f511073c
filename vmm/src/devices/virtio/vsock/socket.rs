//! Moves bytes between a Unix stream socket and guest memory, without a copy in between and without ever blocking.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use vm_memory::VolatileSlice;

/// A piece of guest memory.
pub type Slice<'m> = VolatileSlice<'m>;

/// The most pieces that one system call takes; what goes beyond is left for the next call.
const MAX_VECTORS: usize = 64;

/// The host's end of a connection.
#[derive(Debug)]
pub struct HostSocket(UnixStream);

/// What a read into guest memory gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one, and there may be more.
    Some(usize),
    /// So many bytes, possibly none, and there are no more for now.
    Last(usize),
    /// The other side has closed this direction.
    EndOfFile,
}

impl HostSocket {
    /// Takes a stream socket over.
    pub fn new(stream: UnixStream) -> Self {
        HostSocket(stream)
    }

    /// Fills `slices` in order. Errors are the socket's, never "would block".
    pub fn read(&self, slices: &[Slice]) -> io::Result<Received> {
        let (mut vectors, count, wanted) = vectors(slices);
        let mut message = message(&mut vectors, count);
        // SAFETY: `message` names `count` initialised vectors, each of which covers a slice of guest memory that stays
        // mapped while `slices` is borrowed. Guest memory is never accessed through references, so that the kernel
        // may write to it.
        let received = unsafe { libc::recvmsg(self.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        match check(received) {
            Ok(0) if wanted > 0 => Ok(Received::EndOfFile),
            // A message with descriptors ends the read, and the descriptors are dropped: only then is a short read
            // not the last one.
            Ok(bytes) if bytes < wanted && message.msg_flags & libc::MSG_CTRUNC == 0 => {
                Ok(Received::Last(bytes))
            }
            Ok(bytes) => Ok(Received::Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Last(0)),
            Err(error) => Err(error),
        }
    }

    /// Writes from the beginning of `slices` as much as the socket takes now, possibly nothing, and says how much.
    pub fn write(&self, slices: &[Slice]) -> io::Result<usize> {
        let (mut vectors, count, _) = vectors(slices);
        let message = message(&mut vectors, count);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `read`; the kernel only reads.
        let written = unsafe { libc::sendmsg(self.as_raw_fd(), &raw const message, flags) };
        would_block_is_zero(check(written))
    }

    /// Writes from our own memory as much as the socket takes now, possibly nothing, and says how much.
    pub fn write_bytes(&self, bytes: &[u8]) -> io::Result<usize> {
        would_block_is_zero(
            send(
                self.as_raw_fd(),
                bytes,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            )
            .map_err(io::Error::from),
        )
    }

    /// Copies what can be read without taking it; 0 bytes mean end of file.
    pub fn peek(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        recv(
            self.as_raw_fd(),
            bytes,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK,
        )
    }

    /// Takes bytes that were peeked before.
    pub fn discard(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        recv(self.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)
    }

    /// Closes directions. That the other side has gone already is no error.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = self.0.shutdown(how);
    }
}

impl AsRawFd for HostSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The slices in the kernel's form, their number and the bytes that they cover together.
fn vectors(slices: &[Slice]) -> ([libc::iovec; MAX_VECTORS], usize, usize) {
    let mut vectors = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; MAX_VECTORS];
    let mut bytes = 0;
    for (vector, slice) in vectors.iter_mut().zip(slices) {
        vector.iov_base = slice.ptr_guard_mut().as_ptr().cast();
        vector.iov_len = slice.len();
        bytes += slice.len();
    }
    (vectors, slices.len().min(MAX_VECTORS), bytes)
}

/// A message of the first `count` vectors, without an address and without control data.
fn message(vectors: &mut [libc::iovec; MAX_VECTORS], count: usize) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vectors.as_mut_ptr(),
        msg_iovlen: count,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

/// The result of a system call. Calls that do not block are not interrupted by signals either.
fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn would_block_is_zero(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read, Write};

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn pair() -> (HostSocket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (HostSocket::new(ours), theirs)
    }

    #[test]
    fn reads_scatter_and_writes_gather() {
        let (socket, mut peer) = pair();
        peer.write_all(b"hello world").unwrap();
        let (mut a, mut b) = ([0u8; 5], [0u8; 20]);
        let slices = [Slice::from(&mut a[..]), Slice::from(&mut b[..])];
        assert_eq!(socket.read(&slices).unwrap(), Received::Last(11));
        assert_eq!((&a, &b[..6]), (b"hello", &b" world"[..]));

        let slices = [Slice::from(&mut a[..]), Slice::from(&mut b[..6])];
        assert_eq!(socket.write(&slices).unwrap(), 11);
        let mut echo = [0; 11];
        peer.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"hello world");
    }

    #[test]
    fn says_when_there_is_no_more() {
        let (socket, mut peer) = pair();
        let mut memory = [0u8; 4];
        assert_eq!(
            socket.read(&[Slice::from(&mut memory[..])]).unwrap(),
            Received::Last(0)
        );
        peer.write_all(b"12345").unwrap();
        assert_eq!(
            socket.read(&[Slice::from(&mut memory[..])]).unwrap(),
            Received::Some(4)
        );
        drop(peer);
        assert_eq!(
            socket.read(&[Slice::from(&mut memory[..])]).unwrap(),
            Received::Last(1)
        );
        assert_eq!(
            socket.read(&[Slice::from(&mut memory[..])]).unwrap(),
            Received::EndOfFile
        );
        assert!(socket.write(&[Slice::from(&mut memory[..])]).is_err());
    }

    #[test]
    fn descriptors_in_the_stream_do_not_hide_what_follows() {
        let (socket, peer) = pair();
        let descriptors = [peer.as_raw_fd()];
        sendmsg::<()>(
            peer.as_raw_fd(),
            &[IoSlice::new(b"ab")],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        (&peer).write_all(b"cd").unwrap();
        let mut memory = [0u8; 8];
        assert_eq!(
            socket.read(&[Slice::from(&mut memory[..])]).unwrap(),
            Received::Some(2)
        );
        assert_eq!(
            socket.read(&[Slice::from(&mut memory[..])]).unwrap(),
            Received::Last(2)
        );
        assert_eq!(&memory[..2], b"cd");
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_left_over() {
        let (socket, mut peer) = pair();
        peer.write_all(&[9; MAX_VECTORS + 1]).unwrap();
        let mut memory = [[0u8; 1]; MAX_VECTORS + 1];
        let slices: Vec<_> = memory.iter_mut().map(|byte| Slice::from(&mut byte[..])).collect();
        assert_eq!(socket.read(&slices).unwrap(), Received::Some(MAX_VECTORS));
        assert_eq!(socket.read(&slices).unwrap(), Received::Last(1));
        assert_eq!(socket.write(&slices).unwrap(), MAX_VECTORS);
    }
}
