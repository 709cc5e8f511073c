//! What a transport and a device know of each other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestMemory;

/// A virtio device as its transport sees it: its identity, its configuration space, and the moment at which the
/// driver is ready. What happens on the queues afterwards is the device's own business, on the thread it chose.
pub trait VirtioDevice: Send {
    /// The device's type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The feature bits that it offers. The transport adds `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// Reads from the configuration space. Bytes beyond its end are left as they are: the transport hands over zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the configuration space. Most devices have nothing to write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready (`DRIVER_OK`). Called once, on a virtual processor's thread, which waits for it; the
    /// device hands the queues to the event loop or to a worker thread of its own.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// The guest's memory: every byte of it is hostile.
    pub memory: GuestMemory,
    /// The feature bits that both sides agreed on.
    pub features: u64,
    /// The queues, all ready and valid, in the device's order.
    pub queues: Vec<ActiveQueue>,
    /// How the device gets the driver's attention.
    pub interrupt: Arc<Interrupt>,
}

/// A queue that the driver has set up.
pub struct ActiveQueue {
    /// The queue.
    pub queue: Queue,
    /// Readable when the driver has added buffers.
    pub kick: EventFd,
}

/// A device could not start its work.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver set up another number of queues than the device has.
    #[error("the driver set up {0} queues, the device has {1}")]
    Queues(usize, usize),
    /// The host refused a resource.
    #[error("{0}: {1}")]
    Host(&'static str, #[source] io::Error),
}

/// A device's interrupt line together with the register that says why it was raised.
pub struct Interrupt {
    status: Arc<AtomicU32>,
    line: EventFd,
    configuration_generation: AtomicU32,
}

impl Interrupt {
    /// The driver should look at the used rings (virtio 1.2, section 4.2.2, `InterruptStatus` bit 0).
    pub const USED_RING: u32 = 1;
    /// The driver should look at the configuration space (bit 1).
    pub const CONFIGURATION: u32 = 2;

    /// An interrupt that raises `line` and notes the reason in `status`, the transport's register.
    pub fn new(status: Arc<AtomicU32>, line: EventFd) -> Self {
        Interrupt {
            status,
            line,
            configuration_generation: AtomicU32::new(0),
        }
    }

    /// Tells the driver that buffers have been used.
    pub fn used_ring(&self) {
        self.raise(Self::USED_RING);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn configuration_changed(&self) {
        self.configuration_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(Self::CONFIGURATION);
    }

    /// How often the configuration space has changed, by which the driver notices that it read half of a change.
    pub fn configuration_generation(&self) -> u32 {
        self.configuration_generation.load(Ordering::SeqCst)
    }

    fn raise(&self, reason: u32) {
        self.status.fetch_or(reason, Ordering::SeqCst);
        // The write fails only when the counter is about to overflow, and then the line is raised already.
        let _ = self.line.write(1);
    }
}
