//! The guest's memory as it grows. Until it is to have more than it was started with, there is room kept in the VMM's
//! address space and nothing else; then the memory device comes into one of the slots that are kept free.

use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemory as _};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::layout;
use crate::config::MemoryBacking;
use crate::control::server::Hotplug;
use crate::devices::virtio::mem::{BLOCK_SIZE, Expose, Region, Target};
use crate::kvm;
use crate::memory::{self, GuestMemory};
use crate::wiring::DeviceError;

const MIB: u64 = 1 << 20;

/// Where a guest's memory can grow.
pub struct Room {
    vm: Arc<VmFd>,
    memory: GuestMemory,
    start: GuestAddress,
    size: u64,
    /// The first slot of KVM's that is free.
    first_slot: u32,
    prefault: bool,
}

impl Room {
    /// Keeps room for `more` bytes behind a RAM of `size` bytes, which is all of `memory`, below the address `reach`. There
    /// is none if the host's address space does not take it.
    pub fn keep(
        vm: &Arc<VmFd>,
        memory: &GuestMemory,
        size: u64,
        more: u64,
        reach: u64,
        backing: MemoryBacking,
    ) -> Self {
        let (start, room) = layout::growth(size, more, reach);
        let reserved = (room > 0)
            .then(|| memory::reserve(memory, start, room, backing.huge_pages))
            .flatten();
        Self {
            vm: Arc::clone(vm),
            size: reserved.as_ref().map_or(0, |_| room),
            memory: reserved.unwrap_or_else(|| memory.clone()),
            start,
            first_slot: u32::try_from(memory.num_regions()).expect("RAM is in two pieces at most"),
            prefault: backing.prefault,
        }
    }

    /// All of the guest's memory: what it starts with, and this room.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// How many bytes it can grow by.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The region for a memory device.
    pub fn region(&self) -> Region {
        let (vm, memory) = (Arc::clone(&self.vm), self.memory.clone());
        let mut slots = self.first_slot..;
        let expose: Expose = Box::new(move |start, size| {
            let slot = slots.next().expect("KVM has fewer slots");
            kvm::add_memory(&vm, slot, &memory, start, size)
        });
        Region::new(self.memory.clone(), self.start, self.size, self.prefault, expose)
    }
}

/// How much memory the guest has, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize {
    /// What it has.
    pub present_mib: u32,
    /// What it is to have.
    pub wanted_mib: u32,
    /// What it can have at most.
    pub most_mib: u32,
    /// The number of the memory device's slot, once there is one.
    pub slot: Option<usize>,
}

/// The guest's memory as it grows.
pub struct Growth {
    started_mib: u32,
    most_mib: u32,
    device: Option<(usize, Target)>,
    changed: EventFd,
}

impl Growth {
    /// Of a guest that starts with `started_mib` and can have `most_mib`, as far as `room` bytes are enough.
    ///
    /// # Errors
    /// The host has no descriptor for it.
    pub fn new(started_mib: u32, most_mib: u32, room: u64) -> io::Result<Self> {
        let more = (u64::from(most_mib.saturating_sub(started_mib)) * MIB).min(room);
        Ok(Self {
            started_mib,
            most_mib: started_mib.saturating_add(in_mib(more / BLOCK_SIZE * BLOCK_SIZE)),
            device: None,
            changed: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// How much memory the guest has.
    pub fn size(&self) -> MemorySize {
        let more = |of: fn(&Target) -> u64| self.device.as_ref().map_or(0, |(_, target)| of(target));
        MemorySize {
            present_mib: self
                .started_mib
                .saturating_add(in_mib(more(Target::plugged_size))),
            wanted_mib: self
                .started_mib
                .saturating_add(in_mib(more(Target::requested_size))),
            most_mib: self.most_mib,
            slot: self.device.as_ref().map(|(slot, _)| *slot),
        }
    }

    /// Has the guest take memory until it has `mib`, or as much as it can have. It is never to have less than before.
    ///
    /// # Errors
    /// The memory device cannot be plugged in.
    pub fn grow(&mut self, mib: u32, hotplug: &mut dyn Hotplug) -> Result<MemorySize, DeviceError> {
        let wanted_mib = mib.min(self.most_mib);
        if wanted_mib > self.size().wanted_mib {
            let more = u64::from(wanted_mib - self.started_mib) * MIB;
            self.target(hotplug)?.request(more.next_multiple_of(BLOCK_SIZE));
        }
        Ok(self.size())
    }

    /// Readable when the guest has taken memory or given it back.
    pub fn changed(&self) -> &EventFd {
        &self.changed
    }

    fn target(&mut self, hotplug: &mut dyn Hotplug) -> Result<&Target, DeviceError> {
        let device = match self.device.take() {
            Some(device) => device,
            None => hotplug.plug_memory(self.changed.try_clone().map_err(DeviceError::EventFd)?)?,
        };
        Ok(&self.device.insert(device).1)
    }
}

fn in_mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}
