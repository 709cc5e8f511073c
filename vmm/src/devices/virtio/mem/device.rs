//! The device as its transport sees it, and the host's way to change what the guest is to have.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;
use vm_memory::{ByteValued, Le16, Le64};
use vmm_sys_util::eventfd::EventFd;

use super::handler::{Handler, MemService};
use super::region::{BLOCK_SIZE, Region};
use crate::devices::virtio::buffers::read_config_space;
use crate::devices::virtio::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
use crate::event_loop::LoopHandle;

/// Linux has one request at a time, of two buffers.
const QUEUE_SIZES: [u16; 1] = [2];

/// A memory device before its driver is ready.
pub struct Mem {
    shared: Arc<Shared>,
    event_loop: LoopHandle,
}

/// The host's way to say how much memory the guest is to have, and to see how much it has. Clones lead to the same device.
#[derive(Clone)]
pub struct Target(Arc<Shared>);

/// What the device, its handler and its target have in common.
pub struct Shared {
    region: Mutex<Region>,
    /// Written to when the guest has plugged or unplugged something.
    changed: EventFd,
    interrupt: OnceLock<Arc<Interrupt>>,
}

impl Shared {
    /// The region, for this thread alone.
    pub fn region(&self) -> MutexGuard<'_, Region> {
        self.region.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who waits for it that something is plugged or unplugged.
    pub fn tell_change(&self) {
        // The write fails only when the counter is about to overflow, and then it is readable already.
        let _ = self.changed.write(1);
    }
}

impl Mem {
    /// A device that will do its work on that loop, and write to `changed` whenever the guest has plugged or unplugged
    /// something.
    pub fn new(region: Region, changed: EventFd, event_loop: LoopHandle) -> Self {
        let shared = Shared {
            region: Mutex::new(region),
            changed,
            interrupt: OnceLock::new(),
        };
        Mem {
            shared: Arc::new(shared),
            event_loop,
        }
    }

    /// What its handler has in common with it.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The way to ask the guest for another size.
    pub fn target(&self) -> Target {
        Target(self.shared())
    }
}

impl Target {
    /// Has the guest's driver plug or unplug until that many bytes are plugged, as far as the region goes.
    pub fn request(&self, size: u64) {
        self.0.region().request(size);
        // Before the driver is ready it has not read the size yet.
        if let Some(interrupt) = self.0.interrupt.get() {
            interrupt.configuration_changed();
        }
    }

    /// How many bytes are to be plugged.
    pub fn requested_size(&self) -> u64 {
        self.0.region().requested_size()
    }

    /// How many bytes are plugged.
    pub fn plugged_size(&self) -> u64 {
        self.0.region().plugged_size()
    }
}

/// The configuration space (virtio 1.3, section 5.15.4).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ConfigSpace {
    block_size: Le64,
    node_id: Le16,
    padding: [u8; 6],
    address: Le64,
    region_size: Le64,
    usable_region_size: Le64,
    plugged_size: Le64,
    requested_size: Le64,
}

// SAFETY: integers in an order that leaves no padding (56 bytes); any bytes are a valid value.
unsafe impl ByteValued for ConfigSpace {}

impl VirtioDevice for Mem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// None: there is one memory node, and the guest may read where nothing is plugged.
    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let region = self.shared.region();
        let config = ConfigSpace {
            block_size: BLOCK_SIZE.into(),
            address: region.start().0.into(),
            region_size: region.size().into(),
            usable_region_size: region.size().into(),
            plugged_size: region.plugged_size().into(),
            requested_size: region.requested_size().into(),
            ..ConfigSpace::default()
        };
        read_config_space(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues: [ActiveQueue; 1] = activation
            .queues
            .try_into()
            .map_err(|queues: Vec<_>| ActivateError::Queues(queues.len(), QUEUE_SIZES.len()))?;
        let [queue] = queues;
        let interrupt = activation.interrupt;
        let handler = Handler {
            queue,
            memory: activation.memory,
            interrupt: Arc::clone(&interrupt),
            service: MemService(self.shared()),
        };
        self.event_loop
            .add(Box::new(handler))
            .map_err(|error| ActivateError::Host("memory device", io::Error::other(error)))?;
        if self.shared.interrupt.set(Arc::clone(&interrupt)).is_ok() {
            // The size may have changed since the driver read it. To announce it twice does no harm.
            interrupt.configuration_changed();
        }
        Ok(())
    }
}
