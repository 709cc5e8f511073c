//! Plugging virtio devices into a virtual machine: each gets a window of addresses, an interrupt, and an eventfd for each
//! queue that KVM writes to when the driver notifies.

use std::fmt::Write;
use std::io;

use kvm_ioctls::{IoEventAddress, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::layout;
use crate::devices::mmio::{MmioBus, WINDOW};
use crate::devices::virtio::blk::ImageError;
use crate::devices::virtio::{MmioTransport, VirtioDevice, Wiring};
use crate::kvm::KvmError;
use crate::memory::GuestMemory;

/// A device could not be made or plugged in.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no interrupt for it.
    #[error("the guest would have more than {0} virtio devices")]
    TooMany(usize),
    /// KVM refused to connect it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host has no more eventfds.
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
    /// An image cannot be served.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The root cannot be opened.
    #[error("cannot open the shared folder")]
    SharedFolder(#[source] io::Error),
    /// The device has a queue of a size that virtio does not know.
    #[error("a queue's size is not a power of two of at most 32768")]
    QueueSize(#[source] virtio_queue::Error),
}

/// The virtual machine's slots for devices.
pub struct Slots<'vm> {
    vm: &'vm VmFd,
    memory: GuestMemory,
    transports: Vec<MmioTransport>,
}

impl<'vm> Slots<'vm> {
    /// Empty slots.
    pub fn new(vm: &'vm VmFd, memory: GuestMemory) -> Self {
        Slots {
            vm,
            memory,
            transports: Vec::new(),
        }
    }

    /// Plugs a device into the next slot.
    pub fn plug(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), DeviceError> {
        let slot = self.transports.len();
        let interrupt = interrupt(slot).ok_or(DeviceError::TooMany(slot))?;
        let wiring = Wiring {
            memory: self.memory.clone(),
            line: interrupt_line(self.vm, interrupt)?,
            kicks: (0u32..)
                .zip(device.queue_sizes())
                .map(|(queue, _)| self.kick(slot, queue))
                .collect::<Result<_, _>>()?,
        };
        let transport = MmioTransport::new(device, wiring).map_err(DeviceError::QueueSize)?;
        self.transports.push(transport);
        Ok(())
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

    /// The kernel's parameters that describe the devices (Documentation/admin-guide/kernel-parameters.txt,
    /// `virtio_mmio.device`), each followed by a space.
    pub fn parameters(&self) -> String {
        (0..self.transports.len()).fold(String::new(), |mut text, slot| {
            if let Some(interrupt) = interrupt(slot) {
                write!(text, "virtio_mmio.device=4K@{:#x}:{interrupt} ", window(slot))
                    .expect("a String takes all");
            }
            text
        })
    }

    /// The devices on their bus.
    pub fn into_bus(self) -> MmioBus {
        MmioBus::new(layout::MMIO_WINDOWS, self.transports)
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
