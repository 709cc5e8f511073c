//! The rings: descriptor chains to packets and back (virtio 1.2, section 2.7).
//!
//! The driver may frame a packet as it likes: the header and the payload can share descriptors or be spread over
//! several. Linux sends large packets as one descriptor for the header and several for the payload.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemory as _;

use super::packet::{HEADER_LEN, Header, MAX_PAYLOAD};
use super::socket::Slice;
use crate::memory::GuestMemory;

/// The most descriptors in a chain. A packet of Linux has at most one for the header and one for each fragment of a
/// socket buffer (`MAX_SKB_FRAGS`, 17 by default, 45 at most).
const MAX_DESCRIPTORS: usize = 64;

/// Once a batch has this many pieces of payload memory it is not extended.
const MAX_BATCH_PIECES: usize = 64;

/// A ring together with what the driver has to be told about it.
#[derive(Debug)]
struct Ring {
    queue: Queue,
    /// Whether chains have been returned since the driver was last told.
    returned: bool,
}

impl Ring {
    fn new(queue: Queue) -> Self {
        Ring {
            queue,
            returned: false,
        }
    }

    /// The next chain. When there is none, the driver will kick for the next one.
    fn next<'m>(&mut self, memory: &'m GuestMemory) -> Option<DescriptorChain<&'m GuestMemory>> {
        if let Some(chain) = self.queue.pop_descriptor_chain(memory) {
            return Some(chain);
        }
        match self.queue.enable_notification(memory) {
            // A chain was added just before.
            Ok(true) => self.queue.pop_descriptor_chain(memory),
            _ => None,
        }
    }

    fn give_back(&mut self, memory: &GuestMemory, head: u16, written: usize) {
        // A batch is small, the length fits. The only other errors are a head that is not in the table, and rings
        // that are not in memory: nothing can be returned to such a driver.
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.returned |= self.queue.add_used(memory, head, written).is_ok();
    }

    fn wants_interrupt(&mut self, memory: &GuestMemory) -> bool {
        std::mem::take(&mut self.returned) && self.queue.needs_notification(memory).unwrap_or(true)
    }
}

/// The chain breaks the rules: wrong direction, memory that is not there, or too many descriptors.
#[derive(Debug)]
struct Malformed;

/// Where a packet's header and its payload are in memory. The lists are reused from packet to packet.
#[derive(Debug, Default)]
struct Layout<'m> {
    header: Vec<Slice<'m>>,
    payload: Vec<Slice<'m>>,
}

impl<'m> Layout<'m> {
    /// Adds a chain. Returns how much header and how much payload it holds, in bytes.
    fn add(
        &mut self,
        memory: &'m GuestMemory,
        chain: DescriptorChain<&GuestMemory>,
        writable: bool,
    ) -> Result<(usize, usize), Malformed> {
        let (mut header, mut payload) = (0, 0);
        for (index, descriptor) in chain.enumerate() {
            if index == MAX_DESCRIPTORS || descriptor.is_write_only() != writable {
                return Err(Malformed);
            }
            let room = HEADER_LEN + MAX_PAYLOAD - header - payload;
            let len = usize::try_from(descriptor.len()).unwrap_or(usize::MAX).min(room);
            if len == 0 {
                continue;
            }
            for slice in memory.get_slices(descriptor.addr(), len) {
                let slice = slice.map_err(|_| Malformed)?;
                let (front, rest) = slice
                    .split_at(slice.len().min(HEADER_LEN - header))
                    .map_err(|_| Malformed)?;
                if !front.is_empty() {
                    header += front.len();
                    self.header.push(front);
                }
                if !rest.is_empty() {
                    payload += rest.len();
                    self.payload.push(rest);
                }
            }
        }
        Ok((header, payload))
    }

    fn truncate(&mut self, pieces: usize, headers: usize) {
        self.payload.truncate(pieces);
        self.header.truncate(headers);
    }
}

/// Shortens `slices` to their first `len` bytes.
fn shorten(slices: &mut Vec<Slice>, len: usize) {
    let mut left = len;
    for index in 0..slices.len() {
        let Some(slice) = slices.get_mut(index) else {
            return;
        };
        if slice.len() >= left {
            if let Ok(front) = slice.subslice(0, left) {
                *slice = front;
            }
            slices.truncate(if left == 0 { index } else { index + 1 });
            return;
        }
        left -= slice.len();
    }
}

/// The ring of packets from the guest.
#[derive(Debug)]
pub struct TxRing(Ring);

/// A packet from the guest, in its memory.
#[derive(Debug, Default)]
pub struct TxPacket<'m> {
    header: Header,
    layout: Layout<'m>,
    head: u16,
}

/// What the next chain of the guest turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A packet.
    Packet,
    /// A header whose payload is not there, or is too long.
    BadPayload,
    /// Nothing that could be answered.
    Garbage,
}

impl TxPacket<'_> {
    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The payload, as long as the header says.
    pub fn payload(&self) -> &[Slice<'_>] {
        &self.layout.payload
    }
}

impl TxRing {
    /// The ring on this queue.
    pub fn new(queue: Queue) -> Self {
        TxRing(Ring::new(queue))
    }

    /// Asks the driver not to kick until the ring has been seen empty.
    pub fn hush(&mut self, memory: &GuestMemory) {
        // Fails only when the ring is not in memory; then nothing else works on it either.
        let _ = self.0.queue.disable_notification(memory);
    }

    /// Takes the next chain into `packet`, which must then be [given back](Self::give_back). When there is none, the
    /// driver will kick for the next one.
    pub fn next<'m>(&mut self, memory: &'m GuestMemory, packet: &mut TxPacket<'m>) -> Option<Next> {
        let chain = self.0.next(memory)?;
        packet.head = chain.head_index();
        packet.layout.truncate(0, 0);
        let filled = packet.layout.add(memory, chain, false);
        let mut bytes = [0; HEADER_LEN];
        let mut end = 0;
        for slice in &packet.layout.header {
            end += bytes.get_mut(end..).map_or(0, |rest| slice.copy_to(rest));
        }
        if end < HEADER_LEN {
            return Some(Next::Garbage);
        }
        packet.header = Header::from_bytes(&bytes);
        Some(match (filled, usize::try_from(packet.header.len)) {
            (Ok((_, there)), Ok(len)) if len <= there => {
                shorten(&mut packet.layout.payload, len);
                Next::Packet
            }
            _ => Next::BadPayload,
        })
    }

    /// Returns the packet's chain to the driver.
    pub fn give_back(&mut self, memory: &GuestMemory, packet: &TxPacket) {
        self.0.give_back(memory, packet.head, 0);
    }

    /// Whether the driver wants to be told of the chains that were returned since the last call.
    pub fn wants_interrupt(&mut self, memory: &GuestMemory) -> bool {
        self.0.wants_interrupt(memory)
    }
}

/// The ring of buffers for packets to the guest.
#[derive(Debug)]
pub struct RxRing(Ring);

/// Buffers of the guest that packets are about to be put into.
#[derive(Debug, Default)]
pub struct RxBatch<'m> {
    buffers: Vec<RxBuffer>,
    layout: Layout<'m>,
}

/// One buffer of a batch.
#[derive(Debug, Clone, Copy)]
struct RxBuffer {
    head: u16,
    /// Where its header's pieces begin in the layout; they end where those of the next buffer begin.
    header: usize,
    capacity: usize,
}

impl<'m> RxBatch<'m> {
    /// The payload memory of all buffers, in order.
    pub fn payload(&self) -> &[Slice<'m>] {
        &self.layout.payload
    }

    /// Whether the driver has not provided a buffer.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    fn write_header(&self, index: usize, header: &Header) {
        let start = self.buffers.get(index).map_or(0, |buffer| buffer.header);
        let end = self
            .buffers
            .get(index + 1)
            .map_or(self.layout.header.len(), |next| next.header);
        let bytes = header.to_bytes();
        let mut written = 0;
        for slice in self.layout.header.get(start..end).unwrap_or_default() {
            slice.copy_from(bytes.get(written..).unwrap_or_default());
            written += slice.len();
        }
    }
}

impl RxRing {
    /// The ring on this queue.
    pub fn new(queue: Queue) -> Self {
        RxRing(Ring::new(queue))
    }

    /// Asks the driver not to kick until the ring has been found empty.
    pub fn hush(&mut self, memory: &GuestMemory) {
        // Fails only when the ring is not in memory; then nothing else works on it either.
        let _ = self.0.queue.disable_notification(memory);
    }

    /// Takes one buffer for a packet without payload. An empty batch means that the driver will kick when it has
    /// added one. The batch must be [sent](Self::send) or [put back](Self::put_back).
    pub fn take_one<'m>(&mut self, memory: &'m GuestMemory, batch: &mut RxBatch<'m>) {
        self.take(memory, 1, 0, batch);
    }

    /// Takes up to `buffers` buffers for up to `bytes` bytes, at least one each. An empty batch means that the driver
    /// will kick when it has added a buffer. The batch must be [filled](Self::fill) or
    /// [put back](Self::put_back).
    pub fn take_for<'m>(
        &mut self,
        memory: &'m GuestMemory,
        (buffers, bytes): (usize, usize),
        batch: &mut RxBatch<'m>,
    ) {
        self.take(memory, buffers, bytes, batch);
    }

    /// Takes buffers; those without room for payload are of use only when none is asked for (`bytes` is 0).
    fn take<'m>(&mut self, memory: &'m GuestMemory, buffers: usize, bytes: usize, batch: &mut RxBatch<'m>) {
        batch.buffers.clear();
        batch.layout.truncate(0, 0);
        let mut capacity = 0;
        while batch.buffers.len() < buffers && batch.layout.payload.len() < MAX_BATCH_PIECES {
            // Only an empty batch arms the kick: a driver that has provided something need not be asked for more.
            let chain = if batch.is_empty() {
                self.0.next(memory)
            } else {
                self.0.queue.pop_descriptor_chain(memory)
            };
            let Some(chain) = chain else { return };
            let head = chain.head_index();
            let (pieces, header) = (batch.layout.payload.len(), batch.layout.header.len());
            match batch.layout.add(memory, chain, true) {
                Ok((HEADER_LEN, room)) if room > 0 || bytes == 0 => {
                    let room = room.min(bytes - capacity);
                    capacity += room;
                    batch.buffers.push(RxBuffer {
                        head,
                        header,
                        capacity: room,
                    });
                    if capacity == bytes {
                        shorten(&mut batch.layout.payload, bytes);
                        return;
                    }
                }
                _ => {
                    batch.layout.truncate(pieces, header);
                    if !batch.is_empty() {
                        // Chains are returned in order; its turn comes with the next batch.
                        self.0.queue.go_to_previous_position();
                        return;
                    }
                    self.0.give_back(memory, head, 0);
                }
            }
        }
    }

    /// Sends a packet without payload in the batch's first buffer.
    pub fn send(&mut self, memory: &GuestMemory, batch: &RxBatch, header: &Header) {
        if let Some(buffer) = batch.buffers.first() {
            batch.write_header(0, header);
            self.0.give_back(memory, buffer.head, HEADER_LEN);
        }
    }

    /// Sends the first `bytes` bytes of the batch's payload memory under this header. Returns how many packets that
    /// made. Buffers that are not needed stay in the ring.
    pub fn fill(&mut self, memory: &GuestMemory, batch: &RxBatch, bytes: usize, mut header: Header) -> usize {
        let mut left = bytes;
        let mut packets = 0;
        for (index, buffer) in batch.buffers.iter().enumerate() {
            if left == 0 {
                self.0.queue.go_to_previous_position();
                continue;
            }
            let len = left.min(buffer.capacity);
            left -= len;
            packets += 1;
            // No buffer has more than `MAX_PAYLOAD`.
            header.len = u32::try_from(len).unwrap_or(u32::MAX);
            batch.write_header(index, &header);
            self.0.give_back(memory, buffer.head, HEADER_LEN + len);
        }
        packets
    }

    /// Leaves all buffers of the batch in the ring.
    pub fn put_back(&mut self, batch: &RxBatch) {
        for _ in &batch.buffers {
            self.0.queue.go_to_previous_position();
        }
    }

    /// Whether the driver wants to be told of the buffers that were filled since the last call.
    pub fn wants_interrupt(&mut self, memory: &GuestMemory) -> bool {
        self.0.wants_interrupt(memory)
    }
}
