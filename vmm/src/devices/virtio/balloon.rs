//! The memory balloon device (virtio 1.2, section 5.5), for its free page reporting alone (5.5.6.7): the guest says which
//! of its memory it does not use, and the host has that back until the guest touches it again. The balloon itself stays
//! empty: its size is 0 for ever, and nothing is read from its queues.
//!
//! It runs on the event loop. Its system calls there are read (the kick), madvise, and write (the interrupt).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::QueueT;
use vmm_sys_util::epoll::EventSet;

use super::device::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
use crate::event_loop::LoopHandle;
use crate::memory::{self, GuestMemory};

/// `VIRTIO_BALLOON_F_PAGE_REPORTING` (5.5.3): there is a queue of free pages.
const PAGE_REPORTING: u64 = 1 << 5;

/// The queues to inflate and deflate by, which Linux sets up in any case; and that of free pages, in whose reports Linux
/// puts 32 ranges. Without the features of those between them, Linux numbers them without a gap.
const QUEUE_SIZES: [u16; 3] = [2, 2, 32];

/// The device before its driver is ready.
pub struct Balloon {
    event_loop: LoopHandle,
}

impl Balloon {
    /// A device that will do its work on that loop.
    pub fn new(event_loop: LoopHandle) -> Self {
        Balloon { event_loop }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        PAGE_REPORTING
    }

    /// The balloon's size and what the driver says of it are 0.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues: [ActiveQueue; 3] = activation
            .queues
            .try_into()
            .map_err(|queues: Vec<_>| ActivateError::Queues(queues.len(), QUEUE_SIZES.len()))?;
        let [_inflate, _deflate, reports] = queues;
        if activation.features & PAGE_REPORTING == 0 {
            // The driver will report nothing.
            return Ok(());
        }
        let handler = Handler {
            reports,
            memory: activation.memory,
            interrupt: activation.interrupt,
        };
        self.event_loop
            .add(Box::new(handler))
            .map(drop)
            .map_err(|error| ActivateError::Host("balloon device", io::Error::other(error)))
    }
}

/// The device at work.
struct Handler {
    reports: ActiveQueue,
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
}

impl Handler {
    /// Gives back what the reports name. The driver keeps it from being used until the report has been.
    fn take_reports(&mut self) -> Result<(), virtio_queue::Error> {
        let queue = &mut self.reports.queue;
        while let Some(chain) = queue.pop_descriptor_chain(&self.memory) {
            let head = chain.head_index();
            // What is device-readable is no free page (5.5.6.7.1).
            for range in chain.writable() {
                // A range that is none of the guest's memory, or that the host keeps, costs the host what it did before.
                let _ = memory::give_back(&self.memory, range.addr(), range.len().into());
            }
            queue.add_used(&self.memory, head, 0)?;
        }
        if queue.needs_notification(&self.memory)? {
            self.interrupt.used_ring();
        }
        Ok(())
    }
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        // It fails when the process is out of memory or epoll watches; the device then stays silent.
        let _ = ops.add(Events::new(&self.reports.kick, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        debug_assert_eq!(events.fd(), self.reports.kick.as_raw_fd());
        let _ = self.reports.kick.read();
        if self.take_reports().is_err() {
            // The rings are not what they were when the driver handed them over: nothing more to be done for it.
            let _ = ops.remove(Events::new(&self.reports.kick, EventSet::IN));
        }
    }
}

#[cfg(test)]
mod tests;
