//! Plugging virtio devices into a virtual machine: each gets a window of addresses, an interrupt, and an eventfd for each
//! queue that KVM writes to when the driver notifies.

use std::fmt::Write;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::layout;
use crate::devices::mmio::{MmioBus, WINDOW, Window};
use crate::devices::virtio::blk::ImageError;
use crate::devices::virtio::net::NetError;
use crate::devices::virtio::{MmioTransport, VirtioDevice, Wiring};
use crate::kvm::KvmError;
use crate::memory::GuestMemory;
use crate::vcpu::Buses;

/// A device could not be made or plugged in.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no interrupt for it.
    #[error("the guest would have more than {0} virtio devices")]
    TooMany(usize),
    /// Every slot that was kept free has been filled.
    #[error("no slot is free for another device: the guest was started with {0} (network_slots)")]
    NoneFree(usize),
    /// KVM refused to connect it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host has no more eventfds.
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
    /// An image cannot be served.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A network device cannot be made.
    #[error(transparent)]
    Network(#[from] NetError),
    /// The root cannot be opened.
    #[error("cannot open the shared folder")]
    SharedFolder(#[source] io::Error),
    /// The device has a queue of a size that virtio does not know.
    #[error("a queue's size is not a power of two of at most 32768")]
    QueueSize(#[source] virtio_queue::Error),
}

/// The virtual machine's slots for devices.
pub struct Slots {
    board: Board,
    windows: Vec<Window>,
}

impl Slots {
    /// Empty slots.
    pub fn new(vm: Arc<VmFd>, memory: GuestMemory) -> Self {
        Slots {
            board: Board { vm, memory },
            windows: Vec::new(),
        }
    }

    /// Plugs a device into the next slot.
    pub fn plug(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), DeviceError> {
        let transport = self.board.connect(self.windows.len(), device)?;
        self.windows.push(Window::Device(transport));
        Ok(())
    }

    /// Keeps that many slots free behind the devices, for devices that come while the guest runs.
    pub fn reserve(&mut self, count: u8) -> Result<(), DeviceError> {
        for _ in 0..count {
            let slot = self.windows.len();
            interrupt(slot).ok_or(DeviceError::TooMany(slot))?;
            self.windows.push(Window::Reserved);
        }
        Ok(())
    }

    /// The kernel's parameters that describe the slots (Documentation/admin-guide/kernel-parameters.txt,
    /// `virtio_mmio.device`), each followed by a space.
    pub fn parameters(&self) -> String {
        (0..self.windows.len()).fold(String::new(), |mut text, slot| {
            if let Some(interrupt) = interrupt(slot) {
                write!(text, "virtio_mmio.device=4K@{:#x}:{interrupt} ", window(slot))
                    .expect("a String takes all");
            }
            text
        })
    }

    /// The devices on their bus, and the way to plug in others later.
    pub fn into_bus(self) -> (MmioBus, ReservedSlots) {
        let reserved = |window: &Window| matches!(window, Window::Reserved);
        let devices = self.windows.iter().position(reserved);
        let free = devices.unwrap_or(self.windows.len())..self.windows.len();
        let slots = ReservedSlots {
            board: self.board,
            reserved: free.len(),
            free,
        };
        (MmioBus::new(layout::MMIO_WINDOWS, self.windows), slots)
    }
}

/// The slots that were empty when the guest started. Its driver found nothing in them and left; a program in the guest has
/// it look again at the slot that is named.
pub struct ReservedSlots {
    board: Board,
    reserved: usize,
    free: Range<usize>,
}

impl ReservedSlots {
    /// Plugs a device into the next free slot and returns its number, which is that of the platform device
    /// `virtio-mmio.N` in the guest.
    pub fn plug(&mut self, buses: &Buses, device: Box<dyn VirtioDevice>) -> Result<usize, DeviceError> {
        let slot = self.free.start;
        if self.free.is_empty() {
            return Err(DeviceError::NoneFree(self.reserved));
        }
        let transport = self.board.connect(slot, device)?;
        buses.mmio.fill(slot, transport);
        self.free.next();
        Ok(slot)
    }
}

/// What devices are connected to.
struct Board {
    vm: Arc<VmFd>,
    memory: GuestMemory,
}

impl Board {
    fn connect(&self, slot: usize, device: Box<dyn VirtioDevice>) -> Result<MmioTransport, DeviceError> {
        let interrupt = interrupt(slot).ok_or(DeviceError::TooMany(slot))?;
        let wiring = Wiring {
            memory: self.memory.clone(),
            line: interrupt_line(&self.vm, interrupt)?,
            kicks: (0u32..)
                .zip(device.queue_sizes())
                .map(|(queue, _)| self.kick(slot, queue))
                .collect::<Result<_, _>>()?,
        };
        MmioTransport::new(device, wiring).map_err(DeviceError::QueueSize)
    }

    /// An eventfd that KVM writes to when the driver notifies that queue.
    fn kick(&self, slot: usize, queue: u32) -> Result<EventFd, DeviceError> {
        let kick = eventfd()?;
        let notify = IoEventAddress::Mmio(window(slot) + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
        self.vm
            .register_ioevent(&kick, &notify, queue)
            .map_err(KvmError::call("KVM_IOEVENTFD"))?;
        Ok(kick)
    }
}

fn window(slot: usize) -> u64 {
    layout::MMIO_WINDOWS + slot as u64 * WINDOW
}

fn interrupt(slot: usize) -> Option<u32> {
    layout::DEVICE_INTERRUPTS.clone().nth(slot)
}

/// An eventfd that raises that interrupt.
pub fn interrupt_line(vm: &VmFd, interrupt: u32) -> Result<EventFd, DeviceError> {
    let line = eventfd()?;
    vm.register_irqfd(&line, interrupt)
        .map_err(KvmError::call("KVM_IRQFD"))?;
    Ok(line)
}

fn eventfd() -> Result<EventFd, DeviceError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(DeviceError::EventFd)
}
