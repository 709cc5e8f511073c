//! The windows of guest-physical addresses behind which the virtio devices are.

use std::sync::{Mutex, PoisonError};

use crate::devices::virtio::MmioTransport;

/// The size of a device's window in bytes.
pub const WINDOW: u64 = 0x1000;

/// The devices, one window after the other.
pub struct MmioBus {
    start: u64,
    devices: Vec<Mutex<MmioTransport>>,
}

impl MmioBus {
    /// Puts the devices at `start`, in their order.
    pub fn new(start: u64, devices: Vec<MmioTransport>) -> Self {
        MmioBus {
            start,
            devices: devices.into_iter().map(Mutex::new).collect(),
        }
    }

    /// The guest reads. Where nothing is, it reads ones, as from a bus on which nothing answers.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes. Where nothing is, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(self.start)?;
        let device = self.devices.get(usize::try_from(offset / WINDOW).ok()?)?;
        Some((device, offset % WINDOW))
    }
}
