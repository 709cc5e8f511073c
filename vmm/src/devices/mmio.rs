//! The windows of guest-physical addresses behind which the virtio devices are.

use std::sync::{Mutex, PoisonError};

use crate::devices::virtio::{MmioTransport, mmio};

/// The size of a device's window in bytes.
pub const WINDOW: u64 = 0x1000;

/// What is behind a window.
pub enum Window {
    /// A device.
    Device(MmioTransport),
    /// Nothing yet: the guest's driver is told that this place is kept for a device.
    Reserved,
}

/// The devices, one window after the other.
pub struct MmioBus {
    start: u64,
    windows: Vec<Mutex<Window>>,
}

impl MmioBus {
    /// Puts the windows at `start`, in their order.
    pub fn new(start: u64, windows: Vec<Window>) -> Self {
        MmioBus {
            start,
            windows: windows.into_iter().map(Mutex::new).collect(),
        }
    }

    /// Puts a device behind the window of that number, if there is one.
    pub fn fill(&self, number: usize, device: MmioTransport) {
        if let Some(window) = self.windows.get(number) {
            *window.lock().unwrap_or_else(PoisonError::into_inner) = Window::Device(device);
        }
    }

    /// The guest reads. Where nothing is, it reads ones, as from a bus on which nothing answers.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let Some((window, offset)) = self.find(address) else {
            return data.fill(0xff);
        };
        match &mut *window.lock().unwrap_or_else(PoisonError::into_inner) {
            Window::Device(device) => device.read(offset, data),
            Window::Reserved => mmio::read_reserved(offset, data),
        }
    }

    /// The guest writes. Where nothing is, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((window, offset)) = self.find(address)
            && let Window::Device(device) = &mut *window.lock().unwrap_or_else(PoisonError::into_inner)
        {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<Window>, u64)> {
        let offset = address.checked_sub(self.start)?;
        let window = self.windows.get(usize::try_from(offset / WINDOW).ok()?)?;
        Some((window, offset % WINDOW))
    }
}
