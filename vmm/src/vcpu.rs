//! The virtual processors: one thread each, which runs the guest until it needs a device, is paused, or ends.
//!
//! Which system calls these threads make, `vmm/seccomp/lists.toml` says.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::devices::mmio::MmioBus;
use crate::devices::ports::Ports;
use crate::end::End;
use crate::jail::Thread;
use crate::kick;
use crate::pause::Gate;
use crate::report::Outcome;

/// What a processor's accesses reach.
pub struct Buses {
    /// I/O ports.
    pub ports: Ports,
    /// Memory-mapped devices.
    pub mmio: MmioBus,
}

/// How often a processor left the guest, by reason.
#[derive(Default)]
pub struct Exits {
    /// Accesses to I/O ports.
    pub ports: AtomicU64,
    /// Accesses to memory-mapped devices.
    pub mmio: AtomicU64,
    /// Kicks by another thread.
    pub kicks: AtomicU64,
}

/// A virtual processor.
pub struct Vcpu {
    /// Its descriptor.
    pub fd: VcpuFd,
    /// Its number, from 0.
    pub index: usize,
    /// What it reaches.
    pub buses: Arc<Buses>,
    /// Where it waits while the guest is paused.
    pub gate: Arc<Gate>,
    /// How the guest ends.
    pub end: End,
    /// What it counts.
    pub exits: Arc<Exits>,
}

impl Vcpu {
    /// Starts its thread, which lets it run when the gate opens.
    ///
    /// # Errors
    /// The host has no thread for it. It is handed back then: KVM makes no second one of its number.
    pub fn start(self) -> Result<JoinHandle<()>, (Self, io::Error)> {
        self.gate.expect_another();
        let name = format!("vcpu{}", self.index);
        let vcpu = Arc::new(Mutex::new(Some(self)));
        let theirs = Arc::clone(&vcpu);
        let take = |from: &Mutex<Option<Self>>| from.lock().unwrap_or_else(PoisonError::into_inner).take();
        let started = thread::Builder::new().name(name).spawn(move || {
            if let Some(vcpu) = take(&theirs) {
                vcpu.live();
            }
        });
        started.map_err(|error| {
            let vcpu = take(&vcpu).expect("nobody else has taken it");
            vcpu.gate.expect_one_less();
            (vcpu, error)
        })
    }

    /// Runs until the guest's end.
    fn live(mut self) {
        if let Err(error) = Thread::Vcpu.confine() {
            return self.end.fail(error.to_string());
        }
        kick::prepare_thread(&mut self.fd);
        while self.gate.pass(&self.end) {
            self.run();
        }
    }

    /// Runs the guest until the next exit, and serves it.
    fn run(&mut self) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let unable = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                count(&self.exits.ports);
                return self.buses.ports.write(port, data);
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                count(&self.exits.ports);
                return self.buses.ports.read(port, data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                count(&self.exits.mmio);
                return self.buses.mmio.write(address, data);
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                count(&self.exits.mmio);
                return self.buses.mmio.read(address, data);
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                count(&self.exits.kicks);
                return self.fd.set_kvm_immediate_exit(0);
            }
            Ok(VcpuExit::Shutdown) => return self.end.reach(Outcome::TripleFault),
            Ok(VcpuExit::InternalError) => internal_error(&mut self.fd),
            Ok(VcpuExit::FailEntry(reason, processor)) => {
                format!(
                    "the host's processor {processor} refused to enter the guest (hardware reason {reason:#x})"
                )
            }
            Ok(other) => {
                format!("KVM stopped the guest for a reason that a microVM does not have: {other:?}")
            }
            Err(error) => format!("KVM_RUN failed: {error}"),
        };
        self.end
            .fail(format!("virtual processor {}: {unable}", self.index));
    }
}

/// What KVM_EXIT_INTERNAL_ERROR says.
fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member of the union.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let address = vcpu.get_regs().map_or(0, |registers| registers.rip);
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => {
            return format!(
                "KVM cannot emulate the guest's instruction at {address:#x} (internal error {suberror}): \
                 this host's KVM cannot run stock guest kernels; a processor with VMX or SVM is needed, \
                 in a virtual machine nested virtualisation"
            );
        }
        KVM_INTERNAL_ERROR_SIMUL_EX => "an exception while delivering another",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while delivering an event",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit reason that it does not know",
        _ => "of an unknown kind",
    };
    format!("KVM had an internal error at {address:#x}: {what} (internal error {suberror})")
}
