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
        self.replace(number, Window::Device(device));
    }

    /// Takes the device out from behind the window of that number.
    pub fn empty(&self, number: usize) {
        self.replace(number, Window::Reserved);
    }

    fn replace(&self, number: usize, new: Window) {
        let Some(window) = self.windows.get(number) else {
            return;
        };
        let old = std::mem::replace(&mut *window.lock().unwrap_or_else(PoisonError::into_inner), new);
        // The guest does not wait for the end of what the device is about.
        drop(old);
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

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
    use virtio_bindings::virtio_mmio::{
        VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VERSION,
    };
    use vm_memory::GuestAddress;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::config::MemoryBacking;
    use crate::devices::virtio::{Rng, Wiring};
    use crate::event_loop::EventLoop;
    use crate::memory;

    const START: u64 = 0xd000_0000;

    fn read(bus: &MmioBus, window: u64, register: u32) -> u32 {
        let mut data = [0xaa; 4];
        bus.read(START + window * WINDOW + u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_reserved_window_says_that_there_is_no_device_until_there_is() {
        let bus = MmioBus::new(START, vec![Window::Reserved, Window::Reserved]);
        for window in 0..2 {
            assert_eq!(read(&bus, window, VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
            assert_eq!(read(&bus, window, VIRTIO_MMIO_VERSION), 2);
            assert_eq!(read(&bus, window, VIRTIO_MMIO_DEVICE_ID), 0);
        }
        bus.write(START + u64::from(VIRTIO_MMIO_STATUS), &1u32.to_le_bytes());
        assert_eq!(read(&bus, 0, VIRTIO_MMIO_STATUS), 0);
        assert_eq!(read(&bus, 2, VIRTIO_MMIO_MAGIC_VALUE), u32::MAX);

        let event_loop = EventLoop::new().unwrap();
        let wiring = Wiring {
            memory: memory::allocate(&[(GuestAddress(0), 1 << 20)], MemoryBacking::default()).unwrap(),
            line: EventFd::new(0).unwrap(),
            kicks: vec![EventFd::new(0).unwrap()],
        };
        let device = MmioTransport::new(Box::new(Rng::new(event_loop.handle())), wiring).unwrap();
        bus.fill(1, device);
        assert_eq!(read(&bus, 0, VIRTIO_MMIO_DEVICE_ID), 0);
        assert_eq!(read(&bus, 1, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
        bus.empty(1);
        assert_eq!(read(&bus, 1, VIRTIO_MMIO_DEVICE_ID), 0);
    }
}
