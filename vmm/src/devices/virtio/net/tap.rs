//! The tap: frames between guest memory and the host's network, without a copy in between and without ever blocking.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use vm_memory::{GuestMemory as _, VolatileSlice};

use super::frame::{HEADER_LEN, MAX_PIECES, Piece};
use crate::memory::GuestMemory;

/// What the guest's driver can take from the tap (linux/if_tun.h, `TUN_F_*`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames without a checksum.
    pub checksum: bool,
    /// TCP over IPv4 of more than the MTU.
    pub tcp4: bool,
    /// TCP over IPv6 of more than the MTU.
    pub tcp6: bool,
    /// The same with explicit congestion notification.
    pub ecn: bool,
}

/// A tap that adds a virtio header to each frame.
#[derive(Debug)]
pub struct Tap(OwnedFd);

/// What became of a read or a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// A frame of that many bytes with its header.
    Frame(usize),
    /// Nothing, for now.
    Nothing,
    /// The host refused this frame.
    Refused,
    /// The tap has been removed from the host.
    Gone,
}

impl Tap {
    /// Takes over the descriptor of a tap that is attached to an interface.
    ///
    /// # Errors
    /// When it cannot be set to not block.
    pub fn new(tap: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&tap, true)?;
        Ok(Tap(tap))
    }

    /// Has the tap put a header of [`HEADER_LEN`] bytes before each frame.
    ///
    /// # Errors
    /// When the descriptor is not that of a tap.
    pub fn use_headers(&self) -> io::Result<()> {
        let length = libc::c_int::try_from(HEADER_LEN).expect("a small number");
        // SAFETY: the pointer is valid for reading.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) })
    }

    /// Tells the tap what frames the guest takes.
    ///
    /// # Errors
    /// When the host's kernel does not know one of them.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let flags = [
            (offloads.checksum, libc::TUN_F_CSUM),
            (offloads.tcp4, libc::TUN_F_TSO4),
            (offloads.tcp6, libc::TUN_F_TSO6),
            (offloads.ecn, libc::TUN_F_TSO_ECN),
        ];
        let flags = flags.iter().filter(|(wanted, _)| *wanted);
        let flags = flags.fold(0, |all, (_, flag)| all | flag);
        // SAFETY: the argument is a number.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }

    /// Reads the next frame into `pieces`, of which at most [`MAX_PIECES`] are used.
    pub fn read(&self, memory: &GuestMemory, pieces: impl Iterator<Item = Piece>) -> Moved {
        let (vectors, count) = vectors(memory, pieces);
        // SAFETY: the first `count` vectors each cover a slice of guest memory, which stays mapped while `memory` is
        // borrowed. Guest memory is never accessed through references, so that the kernel may write to it.
        let moved = unsafe { libc::readv(self.as_raw_fd(), vectors.as_ptr(), count) };
        match outcome(moved) {
            // No tap, and no end of a file: what stands in for a tap in tests has gone.
            Moved::Frame(0) => Moved::Gone,
            moved => moved,
        }
    }

    /// Writes a frame from `pieces`, of which at most [`MAX_PIECES`] are used.
    pub fn write(&self, memory: &GuestMemory, pieces: impl Iterator<Item = Piece>) -> Moved {
        let (vectors, count) = vectors(memory, pieces);
        // SAFETY: as in `read`; the kernel only reads.
        outcome(unsafe { libc::writev(self.as_raw_fd(), vectors.as_ptr(), count) })
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The pieces in the kernel's form, and their number.
fn vectors(
    memory: &GuestMemory,
    pieces: impl Iterator<Item = Piece>,
) -> ([libc::iovec; MAX_PIECES], libc::c_int) {
    let mut vectors = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; MAX_PIECES];
    let mut count = 0;
    for (vector, piece) in vectors.iter_mut().zip(pieces) {
        // Memory that was there when the piece was made still is.
        let slice: Option<VolatileSlice> = memory.get_slice(piece.address, piece.len).ok();
        if let Some(slice) = slice {
            vector.iov_base = slice.ptr_guard_mut().as_ptr().cast();
            vector.iov_len = slice.len();
        }
        count += 1;
    }
    (vectors, count)
}

fn outcome(result: isize) -> Moved {
    if let Ok(bytes) = usize::try_from(result) {
        return Moved::Frame(bytes);
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Moved::Nothing,
        Some(libc::EBADFD | libc::EPIPE | libc::ENOTCONN | libc::ECONNRESET) => Moved::Gone,
        _ => Moved::Refused,
    }
}
