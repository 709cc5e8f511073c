//! The driver's side of a queue, for tests: requests in a piece of guest memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::buffers::Chain;
use super::worker::Service;
use super::{Activation, ActiveQueue, Interrupt};
use crate::memory::GuestMemory;

/// Where buffers start: the rings are below.
const BUFFERS: GuestAddress = GuestAddress(0x10_0000);
/// The size of the memory of tests.
pub const MEMORY_SIZE: usize = 16 << 20;
const QUEUE_SIZE: u16 = 64;

/// Fresh memory.
pub fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)]).expect("guest memory")
}

/// What a service did with a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Served {
    /// The length that goes into the used ring.
    pub written: u32,
    /// The buffers that the device could write, one after the other. They start as 0xa5.
    pub output: Vec<u8>,
}

/// Has `service` serve a request with these buffers.
pub fn serve(service: &mut impl Service, input: &[&[u8]], output: &[usize]) -> Served {
    let memory = memory();
    let descriptors = lay_out(&memory, input, output);
    let queue = MockSplitQueue::new(&memory, QUEUE_SIZE);
    let chain: Chain<'_> = queue.build_desc_chain(&descriptors).expect("a chain");
    let written = service.serve(&memory, chain);
    Served {
        written,
        output: read_output(&memory, &descriptors),
    }
}

/// Has `service` serve a chain of arbitrary descriptors: (address, length, writable).
pub fn serve_raw(service: &mut impl Service, memory: &GuestMemory, descriptors: &[(u64, u32, bool)]) -> u32 {
    let descriptors: Vec<RawDescriptor> = descriptors
        .iter()
        .map(|&(address, length, writable)| descriptor(GuestAddress(address), length, writable))
        .collect();
    let queue = MockSplitQueue::new(memory, QUEUE_SIZE);
    service.serve(memory, queue.build_desc_chain(&descriptors).expect("a chain"))
}

fn descriptor(address: GuestAddress, length: u32, writable: bool) -> RawDescriptor {
    let flags = if writable { flag(VRING_DESC_F_WRITE) } else { 0 };
    Descriptor::new(address.raw_value(), length, flags | flag(VRING_DESC_F_NEXT), 0).into()
}

/// A descriptor's flag, as descriptors have it.
fn flag(flag: u32) -> u16 {
    u16::try_from(flag).expect("flags have 16 bits")
}

/// The lower half of an address whose upper half is zero.
fn low(address: GuestAddress) -> u32 {
    u32::try_from(address.raw_value()).expect("the memory is small")
}

fn lay_out(memory: &GuestMemory, input: &[&[u8]], output: &[usize]) -> Vec<RawDescriptor> {
    let mut address = BUFFERS;
    let mut descriptors = Vec::new();
    let filled: Vec<Vec<u8>> = output.iter().map(|&length| vec![0xa5; length]).collect();
    let input = input.iter().map(|bytes| (*bytes, false));
    for (bytes, writable) in input.chain(filled.iter().map(|bytes| (bytes.as_slice(), true))) {
        memory.write_slice(bytes, address).expect("room for the buffers");
        descriptors.push(descriptor(
            address,
            u32::try_from(bytes.len()).expect("a length"),
            writable,
        ));
        // A gap, so that neighbours in the request are none in memory.
        address = address.unchecked_add(bytes.len() as u64 + 64);
    }
    descriptors
}

fn read_output(memory: &GuestMemory, descriptors: &[RawDescriptor]) -> Vec<u8> {
    let mut output = Vec::new();
    for descriptor in descriptors.iter().map(|&raw| Descriptor::from(raw)) {
        if descriptor.is_write_only() {
            let mut bytes = vec![0; descriptor.len() as usize];
            memory
                .read_slice(&mut bytes, descriptor.addr())
                .expect("the buffers");
            output.extend(bytes);
        }
    }
    output
}

/// A driver of a whole device.
pub struct MockDriver {
    memory: GuestMemory,
    queues: Vec<(MockQueue, EventFd)>,
    line: EventFd,
    status: Arc<AtomicU32>,
}

/// Where a queue's parts are.
struct MockQueue {
    descriptors: GuestAddress,
    available: GuestAddress,
    used: GuestAddress,
}

impl MockDriver {
    /// A driver with that many empty queues.
    pub fn new(queues: u64) -> Self {
        let memory = memory();
        let queues = (0..queues)
            .map(|index| {
                let queue = MockSplitQueue::create(&memory, GuestAddress(index * 0x1_0000), QUEUE_SIZE);
                let (descriptors, available, used) =
                    (queue.desc_table_addr(), queue.avail_addr(), queue.used_addr());
                (
                    MockQueue {
                        descriptors,
                        available,
                        used,
                    },
                    EventFd::new(EFD_NONBLOCK).expect("an event"),
                )
            })
            .collect();
        let line = EventFd::new(0).expect("an event");
        MockDriver {
            memory,
            queues,
            line,
            status: Arc::default(),
        }
    }

    /// What the device gets.
    pub fn activation(&self) -> Activation {
        let line = self.line.try_clone().expect("an event");
        let queues = self.queues.iter().map(|(queue, kick)| ActiveQueue {
            queue: queue.for_the_device(),
            kick: kick.try_clone().expect("an event"),
        });
        Activation {
            memory: self.memory.clone(),
            features: 0,
            queues: queues.collect(),
            interrupt: Arc::new(Interrupt::new(self.status.clone(), line)),
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Makes a request available in a queue, reusing the place of the one before, and returns its buffers.
    pub fn submit(&self, queue: usize, input: &[&[u8]], output: &[usize]) -> Vec<RawDescriptor> {
        let descriptors = lay_out(&self.memory, input, output);
        let (queue, kick) = &self.queues[queue];
        let last = u16::try_from(descriptors.len() - 1).expect("a short chain");
        for (index, raw) in (0..).zip(&descriptors) {
            let raw = Descriptor::from(*raw);
            let flags = if index == last {
                raw.flags() & !flag(VRING_DESC_F_NEXT)
            } else {
                raw.flags()
            };
            let linked = Descriptor::new(raw.addr().raw_value(), raw.len(), flags, index + 1);
            let at = queue.descriptors.unchecked_add(16 * u64::from(index));
            self.memory
                .write_obj(RawDescriptor::from(linked), at)
                .expect("the descriptors");
        }
        self.set_available(queue, self.index(queue.available).wrapping_add(1));
        kick.write(1).expect("a kick");
        descriptors
    }

    /// Claims that far more requests are available in the first queue than it can hold.
    pub fn break_ring(&self) {
        let (queue, kick) = &self.queues[0];
        self.set_available(queue, 1000);
        kick.write(1).expect("a kick");
    }

    /// Waits for the interrupt and returns its reasons.
    pub fn wait_for_interrupt(&self) -> u32 {
        self.line.read().expect("an interrupt");
        self.status.swap(0, Ordering::SeqCst)
    }

    /// The output buffers of a request.
    pub fn output(&self, descriptors: &[RawDescriptor]) -> Vec<u8> {
        read_output(&self.memory, descriptors)
    }

    /// How many requests the device has used of a queue.
    pub fn used(&self, queue: usize) -> u16 {
        self.index(self.queues[queue].0.used)
    }

    fn index(&self, ring: GuestAddress) -> u16 {
        self.memory.read_obj(ring.unchecked_add(2)).expect("the ring")
    }

    /// Every request starts with descriptor 0, so the ring itself stays as it is: zeros.
    fn set_available(&self, queue: &MockQueue, index: u16) {
        self.memory
            .write_obj(index, queue.available.unchecked_add(2))
            .expect("the ring");
    }
}

impl MockQueue {
    fn for_the_device(&self) -> Queue {
        let mut queue = Queue::new(QUEUE_SIZE).expect("a queue");
        queue.set_desc_table_address(Some(low(self.descriptors)), None);
        queue.set_avail_ring_address(Some(low(self.available)), None);
        queue.set_used_ring_address(Some(low(self.used)), None);
        queue.set_ready(true);
        queue
    }
}
