//! The event loop's side of the device.
//!
//! Its system calls there are read (the kick), ioctl (KVM's memory slots), madvise, and write (the interrupt, and the
//! event of who waits for memory).

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::QueueT;
use vmm_sys_util::epoll::EventSet;

use super::device::Shared;
use super::request::{REQUEST_BYTES, RESPONSE_BYTES, Request, Response};
use crate::devices::virtio::buffers::{self, Chain, Input};
use crate::devices::virtio::worker::Service;
use crate::devices::virtio::{ActiveQueue, Interrupt};
use crate::memory::GuestMemory;

/// Serves the requests of one device.
pub struct MemService(pub Arc<Shared>);

impl Service for MemService {
    fn serve(&mut self, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
        let output = buffers::output(memory, chain.clone());
        // Nothing is done that cannot be answered.
        let Some(mut output) = output
            .ok()
            .filter(|output| output.available_bytes() >= RESPONSE_BYTES)
        else {
            return 0;
        };
        let response = buffers::input(memory, chain)
            .ok()
            .and_then(read_request)
            .map_or(Response::Error, |request| self.0.region().carry_out(request));
        match output.write_all(&response.bytes()) {
            Ok(()) => u32::try_from(RESPONSE_BYTES).expect("a small number"),
            Err(_) => 0,
        }
    }
}

fn read_request(mut input: Input<'_>) -> Option<Request> {
    let mut bytes = [0; REQUEST_BYTES];
    input.read_exact(&mut bytes).ok()?;
    Request::parse(&bytes)
}

/// The device at work.
pub struct Handler {
    /// Where requests arrive.
    pub queue: ActiveQueue,
    /// The guest's memory.
    pub memory: GuestMemory,
    /// How it gets the driver's attention.
    pub interrupt: Arc<Interrupt>,
    /// What it does with requests.
    pub service: MemService,
}

impl Handler {
    fn serve_requests(&mut self) -> Result<(), virtio_queue::Error> {
        let shared = Arc::clone(&self.service.0);
        let before = shared.region().plugged_size();
        let queue = &mut self.queue.queue;
        while let Some(chain) = queue.pop_descriptor_chain(&self.memory) {
            let head = chain.head_index();
            let written = self.service.serve(&self.memory, chain);
            queue.add_used(&self.memory, head, written)?;
        }
        if shared.region().plugged_size() != before {
            shared.tell_change();
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
        let _ = ops.add(Events::new(&self.queue.kick, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        debug_assert_eq!(events.fd(), self.queue.kick.as_raw_fd());
        let _ = self.queue.kick.read();
        if self.serve_requests().is_err() {
            // The rings are not what they were when the driver handed them over: nothing more to be done for it.
            let _ = ops.remove(Events::new(&self.queue.kick, EventSet::IN));
        }
    }
}
