//! A guest's driver: puts packets and buffers into the rings as a guest would, and looks at what comes back.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::vsock::handler::VsockHandler;
use crate::devices::virtio::vsock::packet::{
    HEADER_LEN, HOST_CID, Header, MAX_PAYLOAD, Op, Ports, TYPE_STREAM,
};
use crate::devices::virtio::vsock::streams::Streams;
use crate::devices::virtio::{ActiveQueue, Interrupt};
use crate::memory::GuestMemory;

pub const GUEST_CID: u64 = 42;

/// A length, as packets and descriptors have it.
pub fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap()
}

const WRITE: u16 = 2;
const NEXT: u16 = 1;

const RX_RING: u64 = 0x1000;
const TX_RING: u64 = 0x8000;
const RX_BUFFERS: u64 = 0x10_0000;
const TX_BUFFERS: u64 = 0x40_0000;
const MEMORY: usize = 0x80_0000;

const RX_SLOT: u64 = 0x4000;
const TX_SLOT: u64 = 0x1_1000;

/// How many packets can be in a ring at once.
pub const RX_SLOTS: u16 = 64;
pub const TX_SLOTS: u16 = 32;
const DESCRIPTORS_PER_SLOT: u16 = 4;

/// The driver's view of a ring.
pub struct Ring {
    memory: GuestMemory,
    descriptors: GuestAddress,
    avail: GuestAddress,
    used: GuestAddress,
    size: u16,
    added: u16,
    seen: u16,
}

impl Ring {
    fn new(memory: &GuestMemory, start: u64, size: u16) -> (Self, Queue) {
        // Each part has a page or more of its own.
        let (avail, used) = (start + 0x2000, start + 0x3000);
        let mut queue = Queue::new(size).unwrap();
        queue.set_desc_table_address(u32::try_from(start).ok(), None);
        queue.set_avail_ring_address(u32::try_from(avail).ok(), None);
        queue.set_used_ring_address(u32::try_from(used).ok(), None);
        queue.set_ready(true);
        assert!(queue.is_valid(memory));
        let ring = Ring {
            memory: memory.clone(),
            descriptors: GuestAddress(start),
            avail: GuestAddress(avail),
            used: GuestAddress(used),
            size,
            added: 0,
            seen: 0,
        };
        (ring, queue)
    }

    /// Writes a descriptor as it is.
    pub fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let address = GuestAddress(self.descriptors.0 + 16 * u64::from(index));
        self.memory.write_slice(&bytes, address).unwrap();
    }

    /// Makes a chain out of pieces and adds it.
    pub fn add(&mut self, head: u16, pieces: &[(u64, u32)], flags: u16) {
        for (index, &(address, len)) in (head..).zip(pieces) {
            let last = u32::from(index - head) + 1 == len32(pieces.len());
            let next = if last { (0, 0) } else { (NEXT, index + 1) };
            self.describe(index, address, len, flags | next.0, next.1);
        }
        self.add_head(head);
    }

    pub fn add_head(&mut self, head: u16) {
        let slot = self.avail.0 + 4 + 2 * u64::from(self.added % self.size);
        self.memory
            .write_slice(&head.to_le_bytes(), GuestAddress(slot))
            .unwrap();
        self.set_added(self.added.wrapping_add(1));
    }

    pub fn set_added(&mut self, added: u16) {
        self.added = added;
        self.memory
            .write_slice(&added.to_le_bytes(), GuestAddress(self.avail.0 + 2))
            .unwrap();
    }

    pub fn size(&self) -> u16 {
        self.size
    }

    /// The next chain that the device has returned: its head and how much was written.
    pub fn returned(&mut self) -> Option<(u16, u32)> {
        let mut index = [0; 2];
        self.memory
            .read_slice(&mut index, GuestAddress(self.used.0 + 2))
            .unwrap();
        if u16::from_le_bytes(index) == self.seen {
            return None;
        }
        let slot = self.used.0 + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let mut element = [0; 8];
        self.memory.read_slice(&mut element, GuestAddress(slot)).unwrap();
        let (head, len) = element.split_at(4);
        let head = u32::from_le_bytes(head.try_into().unwrap());
        Some((
            head.try_into().unwrap(),
            u32::from_le_bytes(len.try_into().unwrap()),
        ))
    }
}

/// How a driver lays out a packet in descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// All in one.
    One,
    /// The header in one, the payload in another.
    Two,
    /// The payload in three, as Linux does with fragments.
    Fragments,
    /// Cut in the middle of the header.
    Odd,
}

impl Framing {
    pub const ALL: [Framing; 4] = [Framing::One, Framing::Two, Framing::Fragments, Framing::Odd];

    fn pieces(self, start: u64, len: u32) -> Vec<(u64, u32)> {
        let header = len32(HEADER_LEN);
        let rest = len - header;
        let cuts = match self {
            Framing::One => vec![len],
            Framing::Two if rest == 0 => vec![len],
            Framing::Two => vec![header, rest],
            Framing::Fragments => vec![header, rest / 3, rest / 3, rest - 2 * (rest / 3)],
            Framing::Odd => vec![13, header - 13 + rest / 2, rest - rest / 2],
        };
        let mut at = start;
        cuts.into_iter()
            .map(|cut| {
                let piece = (at, cut);
                at += u64::from(cut);
                piece
            })
            .collect()
    }
}

/// A guest with its device.
pub struct Guest {
    pub memory: GuestMemory,
    pub handler: VsockHandler,
    pub rx: Ring,
    pub tx: Ring,
    pub rx_framing: Framing,
    pub tx_framing: Framing,
    /// The size of the buffers for packets to the guest, header included.
    pub rx_buffer: u32,
    free_rx: Vec<u16>,
    free_tx: Vec<u16>,
    last_tx: Option<u16>,
    interrupts: EventFd,
    uplink: Option<OwnedFd>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Guest {
    /// A guest that has not provided any buffers.
    pub fn new() -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let (rx, rx_queue) = Ring::new(&memory, RX_RING, RX_SLOTS * DESCRIPTORS_PER_SLOT);
        let (tx, tx_queue) = Ring::new(&memory, TX_RING, TX_SLOTS * DESCRIPTORS_PER_SLOT);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let (uplink, ours) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
        let interrupts = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new(Arc::new(AtomicU32::new(0)), interrupts.try_clone().unwrap());
        let active = |queue| ActiveQueue {
            queue,
            kick: EventFd::new(0).unwrap(),
        };
        let streams = Streams::new(GUEST_CID, listener, Some(uplink)).unwrap();
        let handler = VsockHandler::new(
            memory.clone(),
            active(rx_queue),
            active(tx_queue),
            Arc::new(interrupt),
            streams,
        );
        Guest {
            memory,
            handler,
            rx,
            tx,
            rx_framing: Framing::One,
            tx_framing: Framing::Two,
            rx_buffer: 3776,
            free_rx: (0..RX_SLOTS).collect(),
            free_tx: (0..TX_SLOTS).collect(),
            last_tx: None,
            interrupts,
            uplink: Some(ours),
            path,
            _folder: folder,
        }
    }

    /// A guest whose receive ring is full of buffers.
    pub fn ready() -> Self {
        let mut guest = Guest::new();
        guest.provide(usize::MAX);
        guest
    }

    /// Adds up to `count` buffers for packets to the guest.
    pub fn provide(&mut self, count: usize) {
        for _ in 0..count {
            let Some(slot) = self.free_rx.pop() else { return };
            let pieces = self
                .rx_framing
                .pieces(RX_BUFFERS + u64::from(slot) * RX_SLOT, self.rx_buffer);
            self.rx.add(slot * DESCRIPTORS_PER_SLOT, &pieces, WRITE);
        }
    }

    /// The packets that the device has sent, without giving their buffers to it again.
    pub fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        while let Some((head, written)) = self.rx.returned() {
            let slot = head / DESCRIPTORS_PER_SLOT;
            self.free_rx.push(slot);
            let mut bytes = vec![0; written as usize];
            let start = GuestAddress(RX_BUFFERS + u64::from(slot) * RX_SLOT);
            self.memory.read_slice(&mut bytes, start).unwrap();
            let payload = bytes.split_off(HEADER_LEN);
            let header = Header::from_bytes(&bytes.try_into().unwrap());
            assert_eq!(header.len as usize, payload.len());
            assert_eq!(header.dst_cid, GUEST_CID);
            packets.push((header, payload));
        }
        packets
    }

    /// Whether the transmit ring has room.
    pub fn can_send(&mut self) -> bool {
        while let Some((head, _)) = self.tx.returned() {
            let slot = head / DESCRIPTORS_PER_SLOT;
            if slot < TX_SLOTS && !self.free_tx.contains(&slot) {
                self.free_tx.push(slot);
            }
        }
        !self.free_tx.is_empty()
    }

    /// Adds a packet to the transmit ring. `len` of the header is set.
    pub fn send(&mut self, header: Header, payload: &[u8]) {
        assert!(payload.len() <= MAX_PAYLOAD && self.can_send());
        let slot = self.free_tx.pop().unwrap();
        self.last_tx = Some(slot);
        let start = TX_BUFFERS + u64::from(slot) * TX_SLOT;
        let header = Header {
            len: len32(payload.len()),
            ..header
        };
        self.memory
            .write_slice(&header.to_bytes(), GuestAddress(start))
            .unwrap();
        self.memory
            .write_slice(payload, GuestAddress(start + HEADER_LEN as u64))
            .unwrap();
        let pieces = self.tx_framing.pieces(start, len32(HEADER_LEN + payload.len()));
        self.tx.add(slot * DESCRIPTORS_PER_SLOT, &pieces, 0);
    }

    /// Gives the packet that was added last another length.
    pub fn spoil_last_packet(&mut self, len: u32) {
        let slot = self.last_tx.unwrap();
        let len_field = TX_BUFFERS + u64::from(slot) * TX_SLOT + 24;
        self.memory
            .write_slice(&len.to_le_bytes(), GuestAddress(len_field))
            .unwrap();
    }

    /// Takes back the buffers that the device has returned, whatever is in them.
    pub fn recover_buffers(&mut self) {
        while let Some((head, _)) = self.rx.returned() {
            let slot = head / DESCRIPTORS_PER_SLOT;
            if slot < RX_SLOTS && !self.free_rx.contains(&slot) {
                self.free_rx.push(slot);
            }
        }
    }

    /// Adds a packet, has the device look at everything, and returns what it sent.
    pub fn exchange(&mut self, header: Header, payload: &[u8]) -> Vec<(Header, Vec<u8>)> {
        self.send(header, payload);
        self.look()
    }

    /// Has the device look at everything and returns what it sent; the buffers are given to it again.
    pub fn look(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.handler.on_sockets();
        let packets = self.received();
        self.provide(packets.len());
        packets
    }

    /// How often the device has raised its interrupt since the last call.
    pub fn interrupts(&mut self) -> u64 {
        self.interrupts.read().unwrap_or(0)
    }

    /// A client of the listener.
    pub fn client(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    /// The next connection that came over the uplink: its port and its socket.
    pub fn uplinked(&mut self) -> Option<(u32, UnixStream)> {
        let mut port = [0; 4];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut vectors = [IoSliceMut::new(&mut port)];
        let uplink = self.uplink.as_ref().unwrap().as_raw_fd();
        let message = recvmsg::<()>(uplink, &mut vectors, Some(&mut space), MsgFlags::MSG_DONTWAIT).ok()?;
        let Some(ControlMessageOwned::ScmRights(descriptors)) = message.cmsgs().unwrap().next() else {
            return None;
        };
        // SAFETY: the message made this descriptor, and nobody else owns it.
        let socket = unsafe { UnixStream::from_raw_fd(descriptors[0]) };
        Some((u32::from_le_bytes(port), socket))
    }

    /// Closes the other side of the uplink.
    pub fn close_uplink(&mut self) {
        self.uplink = None;
    }
}

/// A header of the guest with plenty of credit.
pub fn from_guest(ports: Ports, op: Op) -> Header {
    Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: ports.guest,
        dst_port: ports.host,
        socket_type: TYPE_STREAM,
        op: op as u16,
        buf_alloc: 1 << 20,
        ..Header::default()
    }
}
