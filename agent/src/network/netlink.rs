//! Requests to the kernel's network configuration (netlink(7)), as few as the agent needs: to build them by hand is a
//! fortieth of the code that a library for all of them adds.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

/// The length of `nlmsghdr`.
const HEADER: usize = 16;

/// A request that is being built: a header, a fixed part and attributes.
#[derive(Debug, PartialEq, Eq)]
pub struct Request(Vec<u8>);

impl Request {
    /// A request of this kind (`RTM_*`), with its fixed part.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).unwrap_or_default();
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend(fixed);
        let mut request = Self(bytes);
        request.align();
        request
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |request| request.0.extend(value));
    }

    /// Appends an attribute that is a number.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends an attribute whose value `fill` appends.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.with_length(|request| {
            request.0.extend(kind.to_ne_bytes());
            fill(request);
        });
    }

    /// Appends what begins with its own length in two bytes; `fill` appends the rest.
    pub fn with_length(&mut self, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        fill(self);
        // All that a request of ours holds is far shorter than 64 KiB: `send` checks the whole.
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.align();
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// The request as it is sent.
    fn finish(mut self) -> Result<Vec<u8>, Errno> {
        let length = u16::try_from(self.0.len()).map_err(|_| Errno::MSGSIZE)?;
        self.0[..4].copy_from_slice(&u32::from(length).to_ne_bytes());
        Ok(self.0)
    }
}

/// A socket to the kernel.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one.
    ///
    /// # Errors
    /// What socket(2) gives.
    pub fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        // NETLINK_ROUTE is 0, which is no protocol given.
        socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).map(Self)
    }

    /// Sends a request and takes the kernel's answer. That something exists already is none that matters.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn send(&self, request: Request) -> Result<(), Errno> {
        send(&self.0, &request.finish()?, SendFlags::empty())?;
        // The answer repeats the request only when it is an error.
        let mut answer = [0; 8192];
        let (length, _) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        match outcome(answer.get(..length).unwrap_or_default()) {
            Err(Errno::EXIST) => Ok(()),
            outcome => outcome,
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What an answer says: `nlmsgerr`, whose first field is 0 or a negated error number.
fn outcome(answer: &[u8]) -> Result<(), Errno> {
    let error = answer.get(HEADER..HEADER + 4);
    let error = error.and_then(|bytes| bytes.try_into().ok().map(i32::from_ne_bytes));
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error.wrapping_neg())),
        None => Err(Errno::BADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_have_their_length() {
        let mut request = Request::new(16, libc::NLM_F_CREATE, &[9; 5]);
        request.attribute(3, b"abc");
        request.nest(4, |request| request.number(5, 0x0102_0304));
        let expected = [
            &[48, 0, 0, 0, 16, 0, 5, 4, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[9, 9, 9, 9, 9, 0, 0, 0],
            &[7, 0, 3, 0, b'a', b'b', b'c', 0],
            &[12, 0, 4, 0, 8, 0, 5, 0, 4, 3, 2, 1],
        ];
        let expected: Vec<u8> = expected.concat();
        let finished = request.finish().unwrap();
        assert_eq!(finished.len(), 44);
        assert_eq!(finished[4..], expected[4..]);
        assert_eq!(finished[..4], [44, 0, 0, 0]);
    }

    #[test]
    fn a_request_that_is_too_long_is_refused() {
        let mut request = Request::new(16, 0, &[]);
        for _ in 0..8192 {
            request.number(1, 1);
        }
        assert_eq!(request.finish(), Err(Errno::MSGSIZE));
    }

    #[test]
    fn the_kernel_answers() {
        let netlink = Netlink::open().unwrap();
        // No interface has this number.
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&0x7fff_fff0u32.to_ne_bytes());
        let answer = netlink.send(Request::new(libc::RTM_SETLINK, 0, &fixed));
        assert!(matches!(answer, Err(Errno::NODEV | Errno::PERM)), "{answer:?}");
    }

    #[test]
    fn answers_are_told_apart() {
        let answer = |error: i32| [&[0; HEADER][..], &error.to_ne_bytes()].concat();
        assert_eq!(outcome(&answer(0)), Ok(()));
        assert_eq!(outcome(&answer(-libc::EPERM)), Err(Errno::PERM));
        assert_eq!(outcome(&[0; 10]), Err(Errno::BADMSG));
    }
}
