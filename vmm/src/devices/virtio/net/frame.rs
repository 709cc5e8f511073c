//! Descriptor chains to pieces of guest memory.

use virtio_queue::DescriptorChain;
use vm_memory::{Address, GuestAddress, GuestMemory as _};

use crate::memory::GuestMemory;

/// The length of a frame's header, `virtio_net_hdr_v1` (virtio 1.2, section 5.1.6).
pub const HEADER_LEN: usize = 12;
/// Where in the header the number of buffers is that the frame takes.
pub const NUM_BUFFERS: u64 = 10;
/// The most that a frame can be: a header, an Ethernet header with a VLAN tag, and the largest IP packet.
pub const MAX_FRAME: usize = HEADER_LEN + 18 + 65535;
/// The most pieces of memory that one frame is moved from or to. Linux needs at most 20 to send; to receive, it needs as
/// many as its buffers are small, and they are not smaller than 1.5 KiB.
pub const MAX_PIECES: usize = 256;
/// The most pieces in one chain.
pub const MAX_CHAIN: usize = 64;

/// A piece of guest memory that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub address: GuestAddress,
    /// Its length in bytes, not 0.
    pub len: usize,
}

/// A chain breaks the rules: wrong direction, memory that is not there, or too many descriptors.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends the pieces of a chain that is all for the device to write (`writable`) or all to read, as far as a frame can
/// need them. Returns how many bytes that is. After an error some may have been appended.
pub fn append_pieces(
    pieces: &mut Vec<Piece>,
    memory: &GuestMemory,
    chain: DescriptorChain<&GuestMemory>,
    writable: bool,
) -> Result<usize, Malformed> {
    let first = pieces.len();
    let mut bytes = 0;
    for descriptor in chain {
        if descriptor.is_write_only() != writable {
            return Err(Malformed);
        }
        let mut address = descriptor.addr();
        // One byte more than a frame can have tells a chain that is too long.
        let room = MAX_FRAME + 1 - bytes;
        let len = usize::try_from(descriptor.len())
            .map_err(|_| Malformed)?
            .min(room);
        if len == 0 {
            continue;
        }
        for slice in memory.get_slices(address, len) {
            let len = slice.map_err(|_| Malformed)?.len();
            if pieces.len() - first == MAX_CHAIN {
                return Err(Malformed);
            }
            pieces.push(Piece { address, len });
            address = address.checked_add(len as u64).ok_or(Malformed)?;
            bytes += len;
        }
    }
    Ok(bytes)
}
