//! The ring of frames from the guest.

use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};

use super::frame::{HEADER_LEN, MAX_FRAME, Piece, append_pieces};
use super::tap::{Moved, Tap};
use crate::memory::GuestMemory;

/// The length of an Ethernet header: there is no shorter frame.
const ETHERNET_HEADER: usize = 14;

/// The ring.
#[derive(Debug)]
pub struct TxRing {
    queue: Queue,
    /// The frame that the tap did not take, by its chain.
    waiting: Option<u16>,
    /// The pieces of that frame, or of the one that is being sent.
    pieces: Vec<Piece>,
}

/// How far the ring has been served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is empty; the driver will kick when it has added a frame.
    All,
    /// The tap takes no more.
    Blocked,
    /// As many frames as were asked for.
    Some,
}

impl TxRing {
    /// The ring on this queue.
    pub fn new(queue: Queue) -> Self {
        TxRing {
            queue,
            waiting: None,
            pieces: Vec::new(),
        }
    }

    /// Sends up to `most` frames. What is no frame, and what the host refuses, is dropped, as a network does.
    pub fn send(&mut self, memory: &GuestMemory, tap: &Tap, most: usize) -> Result<Sent, Error> {
        self.queue.disable_notification(memory)?;
        for _ in 0..most {
            if self.waiting.is_none() {
                match self.queue.iter(memory)?.next() {
                    Some(chain) => self.take(memory, chain)?,
                    None if self.queue.enable_notification(memory)? => {}
                    None => return Ok(Sent::All),
                }
            }
            if let Some(head) = self.waiting {
                if tap.write(memory, self.pieces.iter().copied()) == Moved::Nothing {
                    return Ok(Sent::Blocked);
                }
                self.waiting = None;
                self.queue.add_used(memory, head, 0)?;
            }
        }
        Ok(Sent::Some)
    }

    fn take(&mut self, memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> Result<(), Error> {
        let head = chain.head_index();
        self.pieces.clear();
        match append_pieces(&mut self.pieces, memory, chain, false) {
            Ok(HEADER_AND_ETHERNET..=MAX_FRAME) => {
                self.waiting = Some(head);
                Ok(())
            }
            _ => self.queue.add_used(memory, head, 0),
        }
    }

    /// Whether the driver wants to be told of the frames that were sent since the last call.
    pub fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, Error> {
        self.queue.needs_notification(memory)
    }
}

const HEADER_AND_ETHERNET: usize = HEADER_LEN + ETHERNET_HEADER;
