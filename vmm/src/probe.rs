//! Whether this host's KVM can run a stock guest kernel.
//!
//! Its presence does not say so: there are KVMs without hardware virtualisation that answer every call, interpret the
//! guest's privileged code, and stop at instructions that they do not know. So a guest of a few instructions, which such a
//! KVM does not know and every kernel uses, is run to its HLT. That takes about a millisecond.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Address, Bytes, GuestAddress};

use crate::arch::x86_64::boot::{self, EntryPoint};
use crate::arch::x86_64::registers;
use crate::config::MemoryBacking;
use crate::failure::with_causes;
use crate::kvm::{self, KvmError};
use crate::memory::{self, GuestMemory};

/// What this host's KVM is good for.
#[derive(Debug)]
pub enum Probe {
    /// There is none for this process.
    NoKvm {
        /// What opening it says.
        error: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// There is one that cannot run a stock guest kernel.
    CannotRunStockGuests {
        /// Where it fails.
        detail: String,
    },
    /// It works.
    Usable {
        /// The interface's version.
        api_version: i32,
        /// The most virtual processors that one guest should have.
        recommended_vcpus: usize,
    },
}

/// Looks at `/dev/kvm` and tries it.
pub fn probe() -> Probe {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => try_out(file.into()),
        Err(error) => Probe::NoKvm {
            hint: hint(&error),
            error,
        },
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "load the module kvm_intel or kvm_amd; if that fails, switch virtualisation on in the firmware, \
             or nested virtualisation in the hypervisor of a virtual machine"
        }
        Some(libc::EACCES | libc::EPERM) => "run as root, or as a member of the group that owns /dev/kvm",
        Some(libc::ENODEV | libc::ENXIO) => "the processor's virtualisation is switched off in the firmware",
        _ => "see the kernel's log",
    }
}

fn try_out(kvm: OwnedFd) -> Probe {
    let cannot = |detail| Probe::CannotRunStockGuests { detail };
    let kvm = match kvm::open(kvm) {
        Ok(kvm) => kvm,
        Err(error) => return cannot(with_causes(&error)),
    };
    match run_guest(&kvm) {
        Ok(None) => Probe::Usable {
            api_version: kvm.get_api_version(),
            recommended_vcpus: kvm.get_nr_vcpus(),
        },
        Ok(Some(detail)) => cannot(detail),
        Err(error) => cannot(with_causes(&error)),
    }
}

/// The guest's start, and where it stores what it saves: 16-byte-aligned, within its memory.
const CODE: GuestAddress = GuestAddress(0x1_0000);
const MEMORY_SIZE: u64 = 0x2_0000;

/// In ring 0 and long mode: `fxsave64 [0x11000]`, `cmpxchg16b [0x11200]`, `hlt`. The latter two operands are found through
/// RBX, which is zero at the entry.
const INSTRUCTIONS: [u8; 18] = [
    0x48, 0x0f, 0xae, 0x83, 0x00, 0x10, 0x01, 0x00, // fxsave64 [rbx + 0x11000]
    0x48, 0x0f, 0xc7, 0x8b, 0x00, 0x12, 0x01, 0x00, // cmpxchg16b [rbx + 0x11200]
    0x90, // nop
    0xf4, // hlt
];

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    #[error("cannot write the probe's guest")]
    Guest(#[from] vm_memory::GuestMemoryError),
}

/// Runs the guest. `None` when it came to its end, else where it did not go on.
fn run_guest(kvm: &Kvm) -> Result<Option<String>, ProbeError> {
    let vm = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
    let memory: GuestMemory = memory::allocate(&[(GuestAddress(0), MEMORY_SIZE)], MemoryBacking::default())?;
    boot::write_page_tables(&memory)?;
    memory.write_slice(&INSTRUCTIONS, CODE)?;
    kvm::set_memory(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0).map_err(KvmError::call("KVM_CREATE_VCPU"))?;
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&supported)
        .map_err(KvmError::call("KVM_SET_CPUID2"))?;
    registers::set(&vcpu, EntryPoint::Linux64(CODE))?;
    allow_sse(&vcpu)?;
    // Without an interrupt controller in the kernel, HLT leaves the guest.
    let stopped = match vcpu.run() {
        Ok(VcpuExit::Hlt) => return Ok(None),
        Ok(VcpuExit::InternalError) => "KVM cannot emulate the instruction".to_owned(),
        Ok(other) => format!("KVM stopped the guest ({other:?})"),
        Err(error) => format!("KVM_RUN failed: {error}"),
    };
    let at = vcpu.get_regs().map_or(0, |registers| registers.rip);
    let instruction = match at.checked_sub(CODE.raw_value()) {
        Some(0..8) => "fxsave64",
        Some(8..16) => "cmpxchg16b",
        _ => "an instruction of the guest's",
    };
    Ok(Some(format!("{stopped} at {instruction} in ring 0")))
}

/// CR4.OSFXSR, without which FXSAVE need not do anything.
fn allow_sse(vcpu: &VcpuFd) -> Result<(), KvmError> {
    const OSFXSR: u64 = 1 << 9;
    let mut special = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
    special.cr4 |= OSFXSR;
    vcpu.set_sregs(&special).map_err(KvmError::call("KVM_SET_SREGS"))
}
