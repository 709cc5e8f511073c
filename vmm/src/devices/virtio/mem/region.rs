//! The region of addresses in which blocks are plugged, and the host's memory behind them.

use std::ops::Range;

use vm_memory::GuestAddress;

use super::request::{Blocks, Request, Response, State};
use crate::kvm::KvmError;
use crate::memory::{self, GuestMemory};

/// The size of a block: what Linux plugs at once at the least, and a huge page of the host's.
pub const BLOCK_SIZE: u64 = 2 << 20;

/// The size of a chunk. The guest reaches a chunk's addresses from the first block on that is plugged in it; in all
/// others its accesses find nothing, so that they cost the host nothing. KVM has a few thousand slots, and Linux plugs in
/// pieces of this size.
const CHUNK_SIZE: u64 = 128 << 20;

const BLOCKS_PER_CHUNK: usize = (CHUNK_SIZE / BLOCK_SIZE) as usize;

/// Has KVM let the guest reach these addresses of its memory: the first one, and how many bytes.
pub type Expose = Box<dyn FnMut(GuestAddress, u64) -> Result<(), KvmError> + Send>;

/// The region.
pub struct Region {
    memory: GuestMemory,
    start: GuestAddress,
    /// Of each block, whether it is plugged.
    plugged: Vec<bool>,
    plugged_count: usize,
    /// Of each chunk, whether the guest can reach it.
    exposed: Vec<bool>,
    expose: Expose,
    /// Whether what is plugged is taken from the host at once.
    prefault: bool,
    requested_size: u64,
}

impl Region {
    /// A region of `size` bytes from `start`, of which nothing is plugged and nothing is to be. It is a part of `memory`, and
    /// consists of whole chunks.
    pub fn new(memory: GuestMemory, start: GuestAddress, size: u64, prefault: bool, expose: Expose) -> Self {
        let chunks = usize::try_from(size / CHUNK_SIZE).expect("addresses have 64 bits here");
        Self {
            memory,
            start,
            plugged: vec![false; chunks * BLOCKS_PER_CHUNK],
            plugged_count: 0,
            exposed: vec![false; chunks],
            expose,
            prefault,
            requested_size: 0,
        }
    }

    /// Its first address.
    pub fn start(&self) -> GuestAddress {
        self.start
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.plugged.len() as u64 * BLOCK_SIZE
    }

    /// How many bytes of it the guest is to have.
    pub fn requested_size(&self) -> u64 {
        self.requested_size
    }

    /// Changes that, to whole blocks, and at most to all.
    pub fn request(&mut self, size: u64) {
        self.requested_size = (size / BLOCK_SIZE * BLOCK_SIZE).min(self.size());
    }

    /// How many bytes of it the guest has.
    pub fn plugged_size(&self) -> u64 {
        self.plugged_count as u64 * BLOCK_SIZE
    }

    /// Does what the driver asks for, if it may.
    pub fn carry_out(&mut self, request: Request) -> Response {
        match request {
            Request::Plug(blocks) => self.plug(blocks),
            Request::Unplug(blocks) => self.unplug(blocks),
            Request::UnplugAll => self.unplug_all(),
            Request::State(blocks) => self.state(blocks).map_or(Response::Error, Response::State),
        }
    }

    fn plug(&mut self, blocks: Blocks) -> Response {
        let Some((range, State::Unplugged)) = self.find(blocks).zip(self.state(blocks)) else {
            return Response::Error;
        };
        let size = range.len() as u64 * BLOCK_SIZE;
        if self.plugged_size() + size > self.requested_size {
            return Response::Refused;
        }
        if self.expose(&range).is_err() {
            return Response::Busy;
        }
        let address = self.address(range.start);
        if self.prefault && memory::take(&self.memory, address, size).is_err() {
            return Response::Busy;
        }
        self.mark(range, true);
        Response::Done
    }

    fn unplug(&mut self, blocks: Blocks) -> Response {
        let Some((range, State::Plugged)) = self.find(blocks).zip(self.state(blocks)) else {
            return Response::Error;
        };
        self.discard(range)
    }

    fn unplug_all(&mut self) -> Response {
        self.discard(0..self.plugged.len())
    }

    /// Gives the memory of blocks back to the host, and has them unplugged.
    fn discard(&mut self, range: Range<usize>) -> Response {
        let size = range.len() as u64 * BLOCK_SIZE;
        if memory::give_back(&self.memory, self.address(range.start), size).is_err() {
            return Response::Busy;
        }
        self.mark(range, false);
        Response::Done
    }

    fn state(&self, blocks: Blocks) -> Option<State> {
        let range = self.find(blocks)?;
        let plugged = self.plugged.get(range)?;
        Some(match (plugged.contains(&true), plugged.contains(&false)) {
            (true, false) => State::Plugged,
            (false, _) => State::Unplugged,
            (true, true) => State::Mixed,
        })
    }

    /// The numbers of the blocks that are meant, if they are blocks of this region.
    fn find(&self, blocks: Blocks) -> Option<Range<usize>> {
        let offset = blocks.address.checked_sub(self.start.0)?;
        if blocks.count == 0 || !offset.is_multiple_of(BLOCK_SIZE) {
            return None;
        }
        let first = usize::try_from(offset / BLOCK_SIZE).ok()?;
        let end = first.checked_add(blocks.count.into())?;
        (end <= self.plugged.len()).then_some(first..end)
    }

    fn address(&self, block: usize) -> GuestAddress {
        GuestAddress(self.start.0 + block as u64 * BLOCK_SIZE)
    }

    fn mark(&mut self, range: Range<usize>, plugged: bool) {
        for block in self.plugged.get_mut(range).into_iter().flatten() {
            match (*block, plugged) {
                (false, true) => self.plugged_count += 1,
                (true, false) => self.plugged_count -= 1,
                _ => {}
            }
            *block = plugged;
        }
    }

    /// Lets the guest reach the chunks in which these blocks are. They stay so.
    fn expose(&mut self, range: &Range<usize>) -> Result<(), KvmError> {
        let chunks = range.start / BLOCKS_PER_CHUNK..range.end.div_ceil(BLOCKS_PER_CHUNK);
        for (chunk, exposed) in chunks
            .clone()
            .zip(self.exposed.get_mut(chunks).into_iter().flatten())
        {
            if !*exposed {
                (self.expose)(GuestAddress(self.start.0 + chunk as u64 * CHUNK_SIZE), CHUNK_SIZE)?;
                *exposed = true;
            }
        }
        Ok(())
    }
}
