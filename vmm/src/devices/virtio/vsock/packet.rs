//! The packet header (virtio 1.2, section 5.10.6).

/// The size of a header in bytes.
pub const HEADER_LEN: usize = 44;

/// The most payload bytes that one packet may carry. Linux uses the same limit.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// The host's context identifier.
pub const HOST_CID: u64 = 2;

/// The socket type of stream sockets, the only one offered.
pub const TYPE_STREAM: u16 = 1;

/// A wildcard in socket addresses (`VMADDR_PORT_ANY`), never a real port.
pub const PORT_ANY: u32 = u32::MAX;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Opens a connection.
    Request = 1,
    /// Accepts one.
    Response = 2,
    /// Refuses or ends one.
    Reset = 3,
    /// Closes one or both directions; see [`Directions`].
    Shutdown = 4,
    /// Carries bytes.
    Data = 5,
    /// Says how much the sender can receive.
    CreditUpdate = 6,
    /// Asks for a credit update.
    CreditRequest = 7,
}

impl Op {
    /// The operation with this number, if there is one.
    pub fn from_wire(op: u16) -> Option<Op> {
        Some(match op {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Reset,
            4 => Op::Shutdown,
            5 => Op::Data,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }
}

/// Directions of a connection that one side has closed, as in the flags of [`Op::Shutdown`]. They only accumulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Directions(u32);

impl Directions {
    /// The side will not receive any more.
    pub const RECEIVE: Directions = Directions(1);
    /// The side will not send any more.
    pub const SEND: Directions = Directions(2);
    /// Both.
    pub const BOTH: Directions = Directions(3);

    /// The directions that `flags` names. Unknown bits are ignored.
    pub fn from_wire(flags: u32) -> Self {
        Directions(flags & Self::BOTH.0)
    }

    /// The flags for these directions.
    pub fn to_wire(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is closed.
    pub fn contains(self, other: Directions) -> bool {
        self.0 & other.0 == other.0
    }

    /// Closes `other` too.
    pub fn insert(&mut self, other: Directions) {
        self.0 |= other.0;
    }
}

/// The two ports that, as there are only two CIDs, identify a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The port on the host's side.
    pub host: u32,
    /// The port on the guest's side.
    pub guest: u32,
}

/// A packet header in host byte order. No field of a received one has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The sender's context identifier.
    pub src_cid: u64,
    /// The receiver's context identifier.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// The number of payload bytes.
    pub len: u32,
    /// The socket type.
    pub socket_type: u16,
    /// The operation; see [`Op`].
    pub op: u16,
    /// The operation's flags.
    pub flags: u32,
    /// The size of the sender's receive buffer in bytes.
    pub buf_alloc: u32,
    /// How many bytes the sender has taken out of its receive buffer so far, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// A header of a packet to the guest.
    pub fn to_guest(guest_cid: u64, ports: Ports, op: Op) -> Self {
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            socket_type: TYPE_STREAM,
            op: op as u16,
            ..Header::default()
        }
    }

    /// The refusal of this packet, which came from the guest. It names the addresses and the type that the guest
    /// used, whatever they were, but always goes to the guest.
    pub fn refusal(&self, guest_cid: u64) -> Self {
        Header {
            src_cid: self.dst_cid,
            dst_cid: guest_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            socket_type: self.socket_type,
            op: Op::Reset as u16,
            ..Header::default()
        }
    }

    /// The connection that this packet, which came from the guest, belongs to.
    pub fn ports(&self) -> Ports {
        Ports {
            host: self.dst_port,
            guest: self.src_port,
        }
    }

    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        Header {
            src_cid: u64::from_le_bytes(field(bytes, 0)),
            dst_cid: u64::from_le_bytes(field(bytes, 8)),
            src_port: u32::from_le_bytes(field(bytes, 16)),
            dst_port: u32::from_le_bytes(field(bytes, 20)),
            len: u32::from_le_bytes(field(bytes, 24)),
            socket_type: u16::from_le_bytes(field(bytes, 28)),
            op: u16::from_le_bytes(field(bytes, 30)),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buf_alloc: u32::from_le_bytes(field(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    /// Writes a header.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.socket_type.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// `N` bytes from `offset`; every caller's range is a constant within the header.
fn field<const N: usize>(bytes: &[u8; HEADER_LEN], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let bytes: [u8; HEADER_LEN] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_cid, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(header.src_port, 0x1312_1110);
        assert_eq!(header.dst_port, 0x1716_1514);
        assert_eq!(header.len, 0x1b1a_1918);
        assert_eq!(header.socket_type, 0x1d1c);
        assert_eq!(header.op, 0x1f1e);
        assert_eq!(header.flags, 0x2322_2120);
        assert_eq!(header.buf_alloc, 0x2726_2524);
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
    }

    proptest! {
        #[test]
        fn every_header_survives_the_wire(bytes in prop::array::uniform32(any::<u8>()), tail in prop::array::uniform12(any::<u8>())) {
            let mut whole = [0; HEADER_LEN];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::from_bytes(&whole).to_bytes(), whole);
        }

        #[test]
        fn operations_have_their_numbers(number: u16) {
            match Op::from_wire(number) {
                Some(op) => prop_assert_eq!(op as u16, number),
                None => prop_assert!(!(1..=7).contains(&number)),
            }
        }
    }
}
