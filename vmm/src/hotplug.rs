//! Devices that come while the guest runs, and disks that go again.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::control::MacAddress;
use crate::control::server::Hotplug;
use crate::devices::virtio::mem::{Mem, Target};
use crate::devices::virtio::net::Net;
use crate::devices::virtio::{MmioTransport, VirtioDevice, blk};
use crate::event_loop::LoopHandle;
use crate::growth::Room;
use crate::resources::check_disk_id;
use crate::vcpu::Buses;
use crate::wiring::{Board, DeviceError, Ties};

/// The slots that were empty when the guest started, and the disks by their names.
pub struct HotplugSlots {
    /// What they are on.
    pub board: Board,
    /// By which the guest reaches them.
    pub buses: Arc<Buses>,
    /// Where network devices do their work.
    pub event_loop: LoopHandle,
    /// Where the guest's memory can grow.
    pub room: Room,
    /// Those for network devices and one for memory.
    pub networks: FreeSlots,
    /// Those for disks.
    pub disks: FreeSlots,
    /// The disks that are there.
    pub plugged: BTreeMap<String, Disk>,
}

/// The free slots for devices of one kind.
pub struct FreeSlots {
    kind: &'static str,
    count: usize,
    slots: Vec<usize>,
}

/// A disk of the guest.
pub struct Disk {
    /// Where it is.
    pub slot: usize,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// None: it has been there from the start, and stays.
    pub ties: Option<Ties>,
}

impl FreeSlots {
    /// All of `slots`, for devices called `kind`.
    pub fn new(kind: &'static str, slots: Range<usize>) -> Self {
        FreeSlots {
            kind,
            count: slots.len(),
            slots: slots.rev().collect(),
        }
    }

    fn next(&self) -> Result<usize, DeviceError> {
        let none = DeviceError::NoneFree {
            kind: self.kind,
            count: self.count,
        };
        self.slots.last().copied().ok_or(none)
    }
}

impl HotplugSlots {
    /// Puts a device into a slot that is free.
    fn plug(&self, slot: usize, device: Box<dyn VirtioDevice>) -> Result<Ties, DeviceError> {
        let wiring = self.board.wire(slot, device.as_ref())?;
        let ties = Ties::of(&wiring)?;
        let transport = MmioTransport::new(device, wiring).map_err(DeviceError::QueueSize)?;
        self.buses.mmio.fill(slot, transport);
        Ok(ties)
    }
}

impl Hotplug for HotplugSlots {
    fn attach_network(&mut self, tap: OwnedFd, mac: MacAddress, mtu: u16) -> Result<usize, DeviceError> {
        let device = Net::new(tap, mac, mtu, self.event_loop.clone())?;
        let slot = self.networks.next()?;
        self.plug(slot, Box::new(device))?;
        self.networks.slots.pop();
        Ok(slot)
    }

    fn plug_memory(&mut self, changed: EventFd) -> Result<(usize, Target), DeviceError> {
        let device = Mem::new(self.room.region(), changed, self.event_loop.clone());
        let target = device.target();
        let slot = self.networks.next()?;
        self.plug(slot, Box::new(device))?;
        self.networks.slots.pop();
        Ok((slot, target))
    }

    fn attach_disk(&mut self, id: &str, image: File, read_only: bool) -> Result<usize, DeviceError> {
        match self.plugged.get(id) {
            Some(disk) if disk.read_only && !read_only => {
                return Err(DeviceError::ReadOnly(id.to_owned()));
            }
            Some(disk) => return Ok(disk.slot),
            None => check_disk_id(id)?,
        }
        let device = blk::Block::new(id, image, read_only)?;
        let slot = self.disks.next()?;
        let ties = self.plug(slot, Box::new(device))?;
        self.disks.slots.pop();
        let disk = Disk {
            slot,
            read_only,
            ties: Some(ties),
        };
        self.plugged.insert(id.to_owned(), disk);
        Ok(slot)
    }

    fn detach_disk(&mut self, id: &str) -> Result<(), DeviceError> {
        let (slot, ties) = match self.plugged.get(id) {
            None => return Err(DeviceError::NoDisk(id.to_owned())),
            Some(Disk { ties: None, .. }) => return Err(DeviceError::Fixed(id.to_owned())),
            Some(Disk {
                slot,
                ties: Some(ties),
                ..
            }) => (*slot, ties),
        };
        self.board.unwire(slot, ties)?;
        self.buses.mmio.empty(slot);
        self.disks.slots.push(slot);
        self.plugged.remove(id);
        Ok(())
    }

    fn attached_disks(&self) -> Vec<String> {
        let attached = self.plugged.iter().filter(|(_, disk)| disk.ties.is_some());
        attached.map(|(id, _)| id.clone()).collect()
    }
}
