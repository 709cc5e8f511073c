//! The entropy device (virtio 1.2, section 5.4): fills the guest's buffers from the host's random number generator.
//!
//! It runs on the event loop. Its system calls there are read (the kick), getrandom, and write (the interrupt).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::QueueT;
use vm_memory::Bytes;
use vmm_sys_util::epoll::EventSet;

use super::device::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
use crate::event_loop::LoopHandle;
use crate::memory::GuestMemory;

const QUEUE_SIZES: [u16; 1] = [64];

/// The most bytes that one buffer gets. A driver with a larger one asks again; so no guest keeps the loop busy by a few
/// descriptors that describe all of its memory.
const MOST_PER_BUFFER: usize = 4096;

/// The device before its driver is ready.
pub struct Rng {
    event_loop: LoopHandle,
}

impl Rng {
    /// A device that will do its work on that loop.
    pub fn new(event_loop: LoopHandle) -> Self {
        Rng { event_loop }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues: [ActiveQueue; 1] = activation
            .queues
            .try_into()
            .map_err(|queues: Vec<_>| ActivateError::Queues(queues.len(), QUEUE_SIZES.len()))?;
        let [queue] = queues;
        let handler = Handler {
            queue,
            memory: activation.memory,
            interrupt: activation.interrupt,
        };
        self.event_loop
            .add(Box::new(handler))
            .map(drop)
            .map_err(|error| ActivateError::Host("entropy device", io::Error::other(error)))
    }
}

/// The device at work.
struct Handler {
    queue: ActiveQueue,
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
}

impl Handler {
    /// Fills every buffer that the driver has made available.
    fn fill_buffers(&mut self) -> Result<(), virtio_queue::Error> {
        let queue = &mut self.queue.queue;
        while let Some(chain) = queue.pop_descriptor_chain(&self.memory) {
            let head = chain.head_index();
            // A chain without a buffer to write to gets nothing.
            let filled = chain
                .writable()
                .next()
                .map_or(0, |buffer| fill(&self.memory, buffer.addr(), buffer.len()));
            queue.add_used(&self.memory, head, filled)?;
        }
        if queue.needs_notification(&self.memory)? {
            self.interrupt.used_ring();
        }
        Ok(())
    }
}

/// Writes random bytes to a buffer of the guest's and returns how many.
fn fill(memory: &GuestMemory, address: vm_memory::GuestAddress, length: u32) -> u32 {
    let mut random = [0; MOST_PER_BUFFER];
    let wanted = usize::try_from(length).map_or(MOST_PER_BUFFER, |length| length.min(MOST_PER_BUFFER));
    let random = &mut random[..wanted];
    // SAFETY: the pointer and the length are those of `random`.
    let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    match usize::try_from(got).ok().and_then(|got| random.get(..got)) {
        Some(random) if memory.write_slice(random, address).is_ok() => {
            u32::try_from(random.len()).expect("at most what was asked for")
        }
        _ => 0,
    }
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        // It fails when the process is out of memory or epoll watches; the device then stays silent.
        let _ = ops.add(Events::new(&self.queue.kick, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        debug_assert_eq!(events.fd(), self.queue.kick.as_raw_fd());
        let _ = self.queue.kick.read();
        if self.fill_buffers().is_err() {
            // The rings are not what they were when the driver handed them over: nothing more to be done for it.
            let _ = ops.remove(Events::new(&self.queue.kick, EventSet::IN));
        }
    }
}

#[cfg(test)]
mod tests;
