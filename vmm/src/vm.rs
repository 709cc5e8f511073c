//! A microVM from its parts to its end. [`run`] shows the order in which it comes to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use crate::arch::x86_64::cpuid::Processors;
use crate::arch::x86_64::{boot, kernel, layout, machine};
use crate::console::{Console, ConsoleWriter};
use crate::control::server::{ControlServer, Guest};
use crate::devices::ports::Ports;
use crate::devices::virtio::fs::{Filesystem, HostView};
use crate::devices::virtio::vsock::VsockDevice;
use crate::devices::virtio::{Balloon, Rng, blk};
use crate::devices::{reset, serial};
use crate::end::End;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::failure::{AtStage, Failure};
use crate::growth::{Growth, Room};
use crate::hotplug::{Disk, FreeSlots, HotplugSlots};
use crate::jail::{self, JailError};
use crate::kvm;
use crate::memory;
use crate::report::{Outcome, Reporter, Stage};
use crate::resources::{Devices, Resources};
use crate::vcpu::Buses;
use crate::vcpus::Vcpus;
use crate::wiring::{self, DeviceError, Slots};

/// Builds the microVM, runs it, and returns how it ended.
pub fn run(resources: Resources, console: &Console, reporter: &Reporter) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let serves_files = resources.devices.filesystem.is_some();
    let host_view = serves_files.then(HostView::prepare).transpose().at(Stage::Jail)?;
    jail::enter(serves_files, reporter).at(Stage::Jail)?;
    let shared_folder = resources
        .devices
        .filesystem
        .as_deref()
        .zip(host_view)
        .map(|(tag, host_view)| Filesystem::new(tag, host_view))
        .transpose()
        .map_err(DeviceError::SharedFolder)
        .at(Stage::Devices)?;
    // Threads that are started from here on have this list, too. The file system's is another.
    jail::Thread::Main
        .confine()
        .map_err(JailError::Confine)
        .at(Stage::Jail)?;

    let end = End::new().at(Stage::Run)?;
    let mut event_loop = EventLoop::new().at(Stage::Run)?;
    event_loop.add(Box::new(AtEnd(end.clone())));

    let kvm = kvm::open(resources.kvm).at(Stage::Kvm)?;
    let vm = Arc::new(machine::create(&kvm).at(Stage::Kvm)?);
    let processors = Processors::new(&kvm, resources.max_vcpus).at(Stage::Vcpus)?;

    let ram = layout::ram(u64::from(resources.memory_mib) << 20);
    processors.check_reach(&ram).at(Stage::Memory)?;
    let memory = memory::allocate(&ram, resources.memory_backing).at(Stage::Memory)?;
    kvm::set_memory(&vm, &memory).at(Stage::Memory)?;
    let room = Room::keep(
        &vm,
        &memory,
        u64::from(resources.memory_mib) << 20,
        u64::from(resources.max_memory_mib - resources.memory_mib) << 20,
        processors.reach(),
        resources.memory_backing,
    );

    let kernel = kernel::load(&memory, resources.kernel).at(Stage::Kernel)?;
    let initramfs = resources
        .initramfs
        .map(|image| kernel::load_initramfs(&memory, &kernel, image))
        .transpose()
        .at(Stage::Kernel)?;

    let mut slots = Slots::new(vm.clone(), room.memory().clone());
    let free = plug_devices(&mut slots, resources.devices, shared_folder, &event_loop.handle())
        .at(Stage::Devices)?;
    let command_line = format!(
        "{} {}{}{}",
        reset::PARAMETERS,
        online(resources.vcpus, resources.max_vcpus),
        slots.parameters(),
        resources.command_line
    );
    boot::write(
        &memory,
        kernel.entry,
        &command_line,
        initramfs,
        resources.max_vcpus,
    )
    .at(Stage::Kernel)?;

    let serial_line = wiring::interrupt_line(&vm, layout::SERIAL_INTERRUPT).at(Stage::Devices)?;
    let serial = serial::new(
        serial_line,
        ConsoleWriter::new(console.clone(), resources.console),
    );
    let (mmio, board) = slots.into_bus();
    let buses = Arc::new(Buses {
        ports: Ports::new(serial, reset::new(memory.clone(), console.clone(), end.clone())),
        mmio,
    });

    let make = Box::new(move |index| machine::create_vcpu(&vm, &processors, index, kernel.entry));
    let mut vcpus =
        Vcpus::new(make, resources.max_vcpus, Arc::clone(&buses), end.clone()).at(Stage::Vcpus)?;
    vcpus.grow(resources.vcpus).at(Stage::Vcpus)?;
    if let Some(socket) = resources.control {
        let guest = Guest {
            vcpus,
            console: console.clone(),
            end: end.clone(),
            memory: Growth::new(resources.memory_mib, resources.max_memory_mib, room.size())
                .at(Stage::Run)?,
            hotplug: Box::new(HotplugSlots {
                board,
                buses,
                event_loop: event_loop.handle(),
                room,
                networks: free.networks,
                disks: free.disks,
                plugged: free.plugged,
            }),
            started,
        };
        event_loop.add(Box::new(ControlServer::new(socket, guest).at(Stage::Run)?));
    }
    loop {
        match end.outcome() {
            Some(outcome) => return Ok(outcome.clone()),
            None => event_loop.turn().at(Stage::Run)?,
        }
    }
}

/// The kernel's parameter by which it starts no more processors than there are, of those that its tables have.
fn online(vcpus: u8, max_vcpus: u8) -> String {
    if vcpus < max_vcpus {
        format!("maxcpus={vcpus} ")
    } else {
        String::new()
    }
}

/// What can be plugged and unplugged while the guest runs.
struct Plugged {
    networks: FreeSlots,
    disks: FreeSlots,
    plugged: BTreeMap<String, Disk>,
}

/// Makes the virtio devices. Their order is that of their addresses and interrupts. Returns what can change while the
/// guest runs.
fn plug_devices(
    slots: &mut Slots,
    devices: Devices,
    shared_folder: Option<Filesystem>,
    event_loop: &LoopHandle,
) -> Result<Plugged, DeviceError> {
    if let Some(vsock) = devices.vsock {
        let device = VsockDevice::new(vsock.cid, vsock.listener, vsock.uplink, event_loop.clone());
        slots.plug(Box::new(device))?;
    }
    if let Some(device) = shared_folder {
        slots.plug(Box::new(device))?;
    }
    let mut plugged = BTreeMap::new();
    for disk in devices.blocks {
        let device = blk::Block::new(&disk.id, disk.image, disk.read_only)?;
        let plugged_disk = Disk {
            slot: slots.plug(Box::new(device))?,
            read_only: disk.read_only,
            ties: None,
        };
        plugged.insert(disk.id, plugged_disk);
    }
    if devices.rng {
        slots.plug(Box::new(Rng::new(event_loop.clone())))?;
    }
    if devices.page_reporting {
        slots.plug(Box::new(Balloon::new(event_loop.clone())))?;
    }
    // Behind all others: the numbers of those do not depend on how many are reserved.
    Ok(Plugged {
        networks: FreeSlots::new("network or memory device", slots.reserve(devices.network_slots)?),
        disks: FreeSlots::new("disk", slots.reserve(devices.disk_slots)?),
        plugged,
    })
}

/// Ends the event loop's wait at the guest's end.
struct AtEnd(End);

impl MutEventSubscriber for AtEnd {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(self.0.event(), EventSet::IN))
            .expect("the loop's first descriptor fits");
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // The loop looks at the outcome after every turn.
    }
}
