//! A microVM from its parts to its end. [`run`] shows the order in which it comes to be.

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use kvm_ioctls::VmFd;
use vmm_sys_util::epoll::EventSet;

use crate::arch::x86_64::cpuid::Processors;
use crate::arch::x86_64::{boot, kernel, layout, machine};
use crate::console::{Console, ConsoleWriter};
use crate::devices::ports::Ports;
use crate::devices::virtio::Rng;
use crate::devices::{reset, serial};
use crate::end::End;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::failure::{AtStage, Failure};
use crate::jail;
use crate::kvm;
use crate::memory::{self, GuestMemory};
use crate::report::{Outcome, Reporter, Stage};
use crate::resources::{Devices, Resources};
use crate::vcpu::Buses;
use crate::vcpus::Vcpus;
use crate::wiring::{self, DeviceError, Slots};

/// Builds the microVM, runs it, and returns how it ended.
pub fn run(mut resources: Resources, console: &Console, reporter: &Reporter) -> Result<Outcome, Failure> {
    jail::enter(resources.devices.filesystem.is_some(), reporter).at(Stage::Jail)?;

    let end = End::new().at(Stage::Run)?;
    let mut event_loop = EventLoop::new().at(Stage::Run)?;
    event_loop.add(Box::new(AtEnd(end.clone())));

    let kvm = kvm::open(resources.kvm).at(Stage::Kvm)?;
    let vm = machine::create(&kvm).at(Stage::Kvm)?;
    let processors = Processors::new(&kvm, resources.vcpus).at(Stage::Vcpus)?;

    let memory = memory::allocate(&layout::ram(u64::from(resources.memory_mib) << 20)).at(Stage::Memory)?;
    kvm::set_memory(&vm, &memory).at(Stage::Memory)?;

    let kernel = kernel::load(&memory, &mut resources.kernel).at(Stage::Kernel)?;
    let initramfs = resources
        .initramfs
        .map(|mut image| kernel::load_initramfs(&memory, &kernel, &mut image))
        .transpose()
        .at(Stage::Kernel)?;

    let slots = plug_devices(&vm, &memory, resources.devices, &event_loop.handle()).at(Stage::Devices)?;
    let command_line = format!(
        "{} {}{}",
        reset::PARAMETERS,
        slots.parameters(),
        resources.command_line
    );
    boot::write(&memory, kernel.entry, &command_line, initramfs, resources.vcpus).at(Stage::Kernel)?;

    let serial_line = wiring::interrupt_line(&vm, layout::SERIAL_INTERRUPT).at(Stage::Devices)?;
    let serial = serial::new(
        serial_line,
        ConsoleWriter::new(console.clone(), resources.console),
    );
    let buses = Arc::new(Buses {
        ports: Ports::new(serial, reset::new(memory.clone(), console.clone(), end.clone())),
        mmio: slots.into_bus(),
    });

    let vcpus = (0..resources.vcpus)
        .map(|index| machine::create_vcpu(&vm, &processors, index, kernel.entry))
        .collect::<Result<_, _>>()
        .at(Stage::Vcpus)?;
    let _vcpus = Vcpus::start(vcpus, &buses, &end).at(Stage::Vcpus)?;
    loop {
        match end.outcome() {
            Some(outcome) => return Ok(outcome.clone()),
            None => event_loop.turn().at(Stage::Run)?,
        }
    }
}

/// Makes the virtio devices. Their order is that of their addresses and interrupts.
fn plug_devices<'vm>(
    vm: &'vm VmFd,
    memory: &GuestMemory,
    devices: Devices,
    event_loop: &LoopHandle,
) -> Result<Slots<'vm>, DeviceError> {
    let mut slots = Slots::new(vm, memory.clone());
    if devices.rng {
        slots.plug(Box::new(Rng::new(event_loop.clone())))?;
    }
    Ok(slots)
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
