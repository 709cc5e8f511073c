//! The ring of buffers for frames to the guest.

use std::collections::VecDeque;
use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

use super::frame::{HEADER_LEN, MAX_CHAIN, MAX_FRAME, MAX_PIECES, NUM_BUFFERS, Piece, append_pieces};
use super::tap::{Moved, Tap};
use crate::memory::GuestMemory;

/// The ring. Buffers are taken from it ahead of the frames that will fill them, so that a small frame does not cost
/// looking at all the buffers that a large one would need.
#[derive(Debug)]
pub struct RxRing {
    queue: Queue,
    /// Whether a frame may take several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    mergeable: bool,
    /// The most bytes that a frame can have.
    longest: usize,
    /// What has been taken and not been filled yet.
    buffers: VecDeque<Buffer>,
    /// The pieces of all these buffers.
    pieces: VecDeque<Piece>,
    capacity: usize,
    /// The pieces of the chain that is being taken.
    taken: Vec<Piece>,
    /// The chains that are being returned, with how many bytes each holds.
    used: Vec<(u16, u32)>,
    /// The index in the used ring when the driver was last told.
    told: Wrapping<u16>,
}

#[derive(Debug)]
struct Buffer {
    head: u16,
    pieces: usize,
    len: usize,
}

impl RxRing {
    /// The ring on this queue.
    pub fn new(queue: Queue, mergeable: bool, longest: usize) -> Self {
        let told = Wrapping(queue.next_used());
        RxRing {
            queue,
            mergeable,
            longest: longest.min(MAX_FRAME),
            buffers: VecDeque::new(),
            pieces: VecDeque::new(),
            capacity: 0,
            taken: Vec::new(),
            used: Vec::new(),
            told,
        }
    }

    /// Whether there is room for any frame. If not, the driver will kick when it has added buffers.
    pub fn has_room(&mut self, memory: &GuestMemory) -> Result<bool, Error> {
        // A driver that gets all its buffers back at once, since they are malformed, does not keep us here.
        for _ in 0..=self.queue.size() {
            if self.is_enough() {
                return Ok(true);
            }
            match self.queue.iter(memory)?.next() {
                Some(chain) => self.take(memory, chain)?,
                None if self.queue.enable_notification(memory)? => {}
                None => return Ok(false),
            }
        }
        self.queue.enable_notification(memory)?;
        Ok(false)
    }

    /// Asks the driver not to kick until the ring has been found too empty.
    pub fn hush(&mut self, memory: &GuestMemory) -> Result<(), Error> {
        self.queue.disable_notification(memory)
    }

    fn is_enough(&self) -> bool {
        if self.mergeable {
            self.capacity >= self.longest || self.pieces.len() + MAX_CHAIN > MAX_PIECES
        } else {
            !self.buffers.is_empty()
        }
    }

    fn take(&mut self, memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> Result<(), Error> {
        let head = chain.head_index();
        self.taken.clear();
        match append_pieces(&mut self.taken, memory, chain, true) {
            Ok(len) if len >= HEADER_LEN => {
                self.buffers.push_back(Buffer {
                    head,
                    pieces: self.taken.len(),
                    len,
                });
                self.pieces.extend(self.taken.drain(..));
                self.capacity += len;
                Ok(())
            }
            _ => {
                self.used.push((head, 0));
                self.publish(memory)
            }
        }
    }

    /// Moves the next frame from the tap into buffers. Called when the ring [has room](Self::has_room).
    pub fn receive(&mut self, memory: &GuestMemory, tap: &Tap) -> Result<Moved, Error> {
        let pieces = if self.mergeable {
            self.pieces.len()
        } else {
            self.buffers.front().map_or(0, |buffer| buffer.pieces)
        };
        let moved = tap.read(memory, self.pieces.iter().copied().take(pieces));
        if let Moved::Frame(bytes) = moved {
            self.fill(memory, bytes)?;
        }
        Ok(moved)
    }

    /// Returns the buffers that the frame took, all at once: a driver that saw the first one alone would take the frame
    /// for a broken one.
    fn fill(&mut self, memory: &GuestMemory, bytes: usize) -> Result<(), Error> {
        let mut left = bytes;
        let mut pieces = 0;
        while left > 0
            && let Some(buffer) = self.buffers.pop_front()
        {
            let len = left.min(buffer.len);
            left -= len;
            pieces += buffer.pieces;
            self.capacity -= buffer.len;
            // At most the length of a frame.
            self.used
                .push((buffer.head, u32::try_from(len).unwrap_or(u32::MAX)));
        }
        let count = u16::try_from(self.used.len()).unwrap_or(u16::MAX);
        self.write_count(memory, count);
        self.pieces.drain(..pieces.min(self.pieces.len()));
        self.publish(memory)
    }

    /// Writes how many buffers the frame takes, which the tap leaves to us.
    fn write_count(&self, memory: &GuestMemory, count: u16) {
        let mut offset = NUM_BUFFERS;
        let mut bytes = count.to_le_bytes().into_iter();
        for piece in &self.pieces {
            let len = piece.len as u64;
            while offset < len
                && let Some(byte) = bytes.next()
            {
                // Memory that was there when the piece was made still is.
                let _ = memory.write_obj(byte, piece.address.unchecked_add(offset));
                offset += 1;
            }
            if bytes.len() == 0 {
                return;
            }
            offset = offset.saturating_sub(len);
        }
    }

    /// Puts the chains that are being returned into the used ring, and only then moves the ring's index.
    fn publish(&mut self, memory: &GuestMemory) -> Result<(), Error> {
        let mut next = Wrapping(self.queue.next_used());
        let ring = GuestAddress(self.queue.used_ring());
        for (head, len) in self.used.drain(..) {
            let slot = u64::from(next.0 % self.queue.size());
            let element = u64::from(len) << 32 | u64::from(head);
            let address = ring.checked_add(4 + 8 * slot).ok_or(Error::AddressOverflow)?;
            memory
                .write_obj(element.to_le(), address)
                .map_err(Error::GuestMemory)?;
            next += 1;
        }
        self.queue.set_next_used(next.0);
        let index = ring.checked_add(2).ok_or(Error::AddressOverflow)?;
        memory
            .store(next.0.to_le(), index, Ordering::Release)
            .map_err(Error::GuestMemory)
    }

    /// Whether the driver wants to be told of the buffers that were returned since the last call (virtio 1.2, section
    /// 2.7.7.2). The queue's own answer counts one buffer per frame.
    pub fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, Error> {
        let used = Wrapping(self.queue.next_used());
        let told = std::mem::replace(&mut self.told, used);
        if used == told || !self.queue.event_idx_enabled() {
            return Ok(used != told);
        }
        // The driver looks at the index after it has said when it wants to be told; we the other way round.
        fence(Ordering::SeqCst);
        let address = GuestAddress(self.queue.avail_ring())
            .checked_add(4 + 2 * u64::from(self.queue.size()))
            .ok_or(Error::AddressOverflow)?;
        let event: u16 = memory
            .load(address, Ordering::Relaxed)
            .map_err(Error::GuestMemory)?;
        Ok(used - Wrapping(u16::from_le(event)) - Wrapping(1) < used - told)
    }
}
