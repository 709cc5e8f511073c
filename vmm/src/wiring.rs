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
use crate::resources::ConfigurationError;

/// A device could not be made or plugged in.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no interrupt for it.
    #[error("the guest would have more than {0} virtio devices")]
    TooMany(usize),
    /// Every slot that was kept free has been filled.
    #[error("no slot is free for another {kind}: the guest was started with {count}")]
    NoneFree {
        /// The kind of device.
        kind: &'static str,
        /// How many slots there are for it.
        count: usize,
    },
    /// KVM refused to connect it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host has no more eventfds.
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
    /// An image cannot be served.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no such disk.
    #[error("there is no disk {0:?}")]
    NoDisk(String),
    /// A disk that cannot be taken away.
    #[error("the disk {0:?} has been there from the guest's start, and stays")]
    Fixed(String),
    /// A disk is there, and the guest may not write to it.
    #[error("the disk {0:?} is there already, and can only be read")]
    ReadOnly(String),
    /// What a disk is to be called.
    #[error(transparent)]
    Id(#[from] ConfigurationError),
    /// A network device cannot be made.
    #[error(transparent)]
    Network(#[from] NetError),
    /// The root cannot be opened, or there is no thread that serves it.
    #[error("cannot serve the shared folder")]
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

    /// Plugs a device into the next slot, and answers with its number.
    pub fn plug(&mut self, device: Box<dyn VirtioDevice>) -> Result<usize, DeviceError> {
        let slot = self.windows.len();
        let wiring = self.board.wire(slot, device.as_ref())?;
        let transport = MmioTransport::new(device, wiring).map_err(DeviceError::QueueSize)?;
        self.windows.push(Window::Device(transport));
        Ok(slot)
    }

    /// Keeps that many slots free behind the devices, for devices that come while the guest runs. Its driver finds nothing in
    /// them and leaves; a program in the guest has it look again at the slot that is named.
    pub fn reserve(&mut self, count: u8) -> Result<Range<usize>, DeviceError> {
        let first = self.windows.len();
        for _ in 0..count {
            let slot = self.windows.len();
            interrupt(slot).ok_or(DeviceError::TooMany(slot))?;
            self.windows.push(Window::Reserved);
        }
        Ok(first..self.windows.len())
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

    /// The devices on their bus, and the board for those that come later.
    pub fn into_bus(self) -> (MmioBus, Board) {
        (MmioBus::new(layout::MMIO_WINDOWS, self.windows), self.board)
    }
}

/// What all slots are on.
pub struct Board {
    vm: Arc<VmFd>,
    memory: GuestMemory,
}

/// What ties a slot to the device that is in it, for KVM.
pub struct Ties {
    line: EventFd,
    kicks: Vec<EventFd>,
}

impl Board {
    /// Ties a slot to the device that is to be in it.
    pub fn wire(&self, slot: usize, device: &dyn VirtioDevice) -> Result<Wiring, DeviceError> {
        let interrupt = interrupt(slot).ok_or(DeviceError::TooMany(slot))?;
        Ok(Wiring {
            memory: self.memory.clone(),
            line: interrupt_line(&self.vm, interrupt)?,
            kicks: (0u32..)
                .zip(device.queue_sizes())
                .map(|(queue, _)| self.kick(slot, queue))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Unties a slot from the device that was in it.
    pub fn unwire(&self, slot: usize, ties: &Ties) -> Result<(), DeviceError> {
        let interrupt = interrupt(slot).ok_or(DeviceError::TooMany(slot))?;
        for (queue, kick) in (0u32..).zip(&ties.kicks) {
            self.vm
                .unregister_ioevent(kick, &notification(slot), queue)
                .map_err(KvmError::call("KVM_IOEVENTFD"))?;
        }
        self.vm
            .unregister_irqfd(&ties.line, interrupt)
            .map_err(KvmError::call("KVM_IRQFD"))?;
        Ok(())
    }

    /// An eventfd that KVM writes to when the driver notifies that queue.
    fn kick(&self, slot: usize, queue: u32) -> Result<EventFd, DeviceError> {
        let kick = eventfd()?;
        self.vm
            .register_ioevent(&kick, &notification(slot), queue)
            .map_err(KvmError::call("KVM_IOEVENTFD"))?;
        Ok(kick)
    }
}

impl Ties {
    /// Those by which a device is wired.
    pub fn of(wiring: &Wiring) -> Result<Self, DeviceError> {
        let copy = |event: &EventFd| event.try_clone().map_err(DeviceError::EventFd);
        Ok(Ties {
            line: copy(&wiring.line)?,
            kicks: wiring.kicks.iter().map(copy).collect::<Result<_, _>>()?,
        })
    }
}

/// Where a driver says which queue has something for the device.
fn notification(slot: usize) -> IoEventAddress {
    IoEventAddress::Mmio(window(slot) + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY))
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
