//! The virtio transport over memory-mapped registers (virtio 1.2, section 4.2), version 2.
//!
//! Everything that the driver writes is checked here, and what makes no sense is ignored, as the specification allows.
//! A device is activated once: when its driver resets it afterwards, it falls silent for good, and a driver that tries
//! again finds that its features are not accepted. Linux resets a working device only when it lets go of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as register;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, ActiveQueue, Interrupt, VirtioDevice};
use crate::memory::GuestMemory;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "BLKH".
const VENDOR: u32 = 0x484b_4c42;
/// What the length and base of a shared memory region that is not there read as.
const NO_REGION: u32 = u32::MAX;
const CONFIGURATION: u64 = register::VIRTIO_MMIO_CONFIG as u64;

const DRIVER_SETS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// A device with its registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
    interrupt_status: Arc<AtomicU32>,
    kicks: Option<Vec<EventFd>>,
    queues: Vec<Queue>,
    status: u32,
    device_features_page: u32,
    driver_features_page: u32,
    driver_features: u64,
    selected_queue: u32,
}

/// What a transport is plugged into.
pub struct Wiring {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Raises the device's interrupt.
    pub line: EventFd,
    /// For each queue, what the driver's notification makes readable.
    pub kicks: Vec<EventFd>,
}

impl MmioTransport {
    /// A transport for `device`, which must have as many queues as `wiring` has kicks, of sizes that are powers of two
    /// and at most 32768.
    pub fn new(device: Box<dyn VirtioDevice>, wiring: Wiring) -> Result<Self, virtio_queue::Error> {
        let interrupt_status = Arc::new(AtomicU32::new(0));
        let queues = new_queues(device.as_ref())?;
        Ok(MmioTransport {
            device,
            memory: wiring.memory,
            interrupt: Arc::new(Interrupt::new(Arc::clone(&interrupt_status), wiring.line)),
            interrupt_status,
            kicks: Some(wiring.kicks),
            queues,
            status: 0,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            selected_queue: 0,
        })
    }

    /// The driver reads from the window. Registers take aligned accesses of 32 bits; the device's configuration any.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            self.device.read_config(offset, data);
        } else if let (Ok(data), Ok(offset)) = (<&mut [u8; 4]>::try_from(data), u32::try_from(offset)) {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    /// The driver writes to the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            self.device.write_config(offset, data);
        } else if let (Ok(data), Ok(offset)) = (<[u8; 4]>::try_from(data), u32::try_from(offset)) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            register::VIRTIO_MMIO_VERSION => VERSION,
            register::VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            register::VIRTIO_MMIO_DEVICE_FEATURES => page(self.features(), self.device_features_page),
            register::VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected().map_or(0, |queue| queue.max_size().into()),
            register::VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |queue| queue.ready().into()),
            register::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status.load(Ordering::SeqCst),
            register::VIRTIO_MMIO_STATUS => self.status,
            register::VIRTIO_MMIO_SHM_LEN_LOW
            | register::VIRTIO_MMIO_SHM_LEN_HIGH
            | register::VIRTIO_MMIO_SHM_BASE_LOW
            | register::VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            register::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.configuration_generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_page = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_page = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => self.set_driver_features(value),
            register::VIRTIO_MMIO_QUEUE_SEL => self.selected_queue = value,
            register::VIRTIO_MMIO_QUEUE_READY => self.set_up_queue(|queue| queue.set_ready(value & 1 == 1)),
            // KVM takes notifications of queues that exist before they come here.
            register::VIRTIO_MMIO_QUEUE_NOTIFY => {}
            register::VIRTIO_MMIO_INTERRUPT_ACK => {
                self.interrupt_status.fetch_and(!value, Ordering::SeqCst);
            }
            register::VIRTIO_MMIO_STATUS => self.set_status(value),
            register::VIRTIO_MMIO_QUEUE_NUM => {
                if let Ok(size) = u16::try_from(value) {
                    self.set_up_stopped_queue(|queue| queue.set_size(size));
                }
            }
            register::VIRTIO_MMIO_QUEUE_DESC_LOW => {
                self.set_up_stopped_queue(|queue| queue.set_desc_table_address(Some(value), None));
            }
            register::VIRTIO_MMIO_QUEUE_DESC_HIGH => {
                self.set_up_stopped_queue(|queue| queue.set_desc_table_address(None, Some(value)));
            }
            register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => {
                self.set_up_stopped_queue(|queue| queue.set_avail_ring_address(Some(value), None));
            }
            register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => {
                self.set_up_stopped_queue(|queue| queue.set_avail_ring_address(None, Some(value)));
            }
            register::VIRTIO_MMIO_QUEUE_USED_LOW => {
                self.set_up_stopped_queue(|queue| queue.set_used_ring_address(Some(value), None));
            }
            register::VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.set_up_stopped_queue(|queue| queue.set_used_ring_address(None, Some(value)));
            }
            _ => {}
        }
    }

    fn features(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_VERSION_1
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.selected_queue).ok()?)
    }

    fn set_driver_features(&mut self, value: u32) {
        let value = u64::from(value);
        if self.is(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        match self.driver_features_page {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// Queues are set up between the agreement on features and the driver's being ready (section 3.1.1).
    fn set_up_queue(&mut self, set: impl FnOnce(&mut Queue)) {
        let may = self.is(VIRTIO_CONFIG_S_FEATURES_OK) && !self.is(VIRTIO_CONFIG_S_DRIVER_OK);
        let selected = usize::try_from(self.selected_queue).unwrap_or(usize::MAX);
        if let Some(queue) = self.queues.get_mut(selected).filter(|_| may) {
            set(queue);
        }
    }

    /// A queue's size and addresses do not change while it is ready (section 4.2.2.2).
    fn set_up_stopped_queue(&mut self, set: impl FnOnce(&mut Queue)) {
        self.set_up_queue(|queue| {
            if !queue.ready() {
                set(queue);
            }
        });
    }

    fn is(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let value = value & DRIVER_SETS;
        let new = value & !self.status;
        if self.status & DRIVER_SETS & !value != 0 {
            // Bits are cleared by a reset alone (section 2.1.1).
            return;
        }
        self.status |= new & !(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 && self.agrees() {
            self.status |= VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.is(VIRTIO_CONFIG_S_FEATURES_OK) {
            self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
            self.activate();
        }
    }

    /// Whether the driver's choice of features is one that the device can work with, and the device can work at all.
    fn agrees(&self) -> bool {
        let all_offered = self.driver_features & !self.features() == 0;
        let modern = self.driver_features >> VIRTIO_F_VERSION_1 & 1 == 1;
        all_offered && modern && self.kicks.is_some()
    }

    fn activate(&mut self) {
        let event_index = self.driver_features >> VIRTIO_RING_F_EVENT_IDX & 1 == 1;
        let all_valid = self.queues.iter().all(|queue| queue.is_valid(&self.memory));
        let activated = match self.kicks.take() {
            Some(kicks) if all_valid => {
                let queues = std::mem::take(&mut self.queues).into_iter().zip(kicks);
                let queues = queues.map(|(mut queue, kick)| {
                    queue.set_event_idx(event_index);
                    ActiveQueue { queue, kick }
                });
                self.device
                    .activate(Activation {
                        memory: self.memory.clone(),
                        features: self.driver_features,
                        queues: queues.collect(),
                        interrupt: Arc::clone(&self.interrupt),
                    })
                    .is_ok()
            }
            kicks => {
                self.kicks = kicks;
                false
            }
        };
        if !activated {
            self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
            self.interrupt.configuration_changed();
        }
    }

    fn reset(&mut self) {
        self.status = 0;
        self.interrupt_status.store(0, Ordering::SeqCst);
        self.device_features_page = 0;
        self.driver_features_page = 0;
        self.driver_features = 0;
        self.selected_queue = 0;
        for queue in &mut self.queues {
            queue.reset();
        }
    }
}

/// What a driver reads where there is no device yet: registers without a function, of device type 0 (section 4.2.2).
pub fn read_reserved(offset: u64, data: &mut [u8]) {
    data.fill(0);
    if let (Ok(data), Ok(offset)) = (<&mut [u8; 4]>::try_from(data), u32::try_from(offset)) {
        let value = match offset {
            register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            register::VIRTIO_MMIO_VERSION => VERSION,
            register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            _ => 0,
        };
        *data = value.to_le_bytes();
    }
}

fn new_queues(device: &dyn VirtioDevice) -> Result<Vec<Queue>, virtio_queue::Error> {
    device
        .queue_sizes()
        .iter()
        .map(|size| Queue::new(*size))
        .collect()
}

/// The 32 feature bits of a page.
fn page(features: u64, page: u32) -> u32 {
    match page {
        0 => (features & 0xffff_ffff) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
