//! The kernel's virtualisation interface: what is asked of it, and what it answers when it cannot.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestAddress, GuestMemory as _, GuestMemoryRegion};

use crate::arch::x86_64::machine;
use crate::memory::{self, GuestMemory};

/// KVM refused something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// A call failed.
    #[error("{0} failed")]
    Call(&'static str, #[source] io::Error),
    /// The descriptor is something else, or the interface is not the one that has been stable since 2007.
    #[error(
        "the descriptor given as /dev/kvm does not speak KVM's API version {KVM_API_VERSION} (it says {0})"
    )]
    ApiVersion(i32),
    /// The host's kernel is too old or built without it.
    #[error("the host's KVM lacks {0:?}")]
    Missing(Cap),
    /// The host's CPUID is too long.
    #[error("KVM lists {0} CPUID entries, more than it takes back")]
    TooManyCpuidEntries(usize),
}

impl KvmError {
    /// The error of the call `name`, for `map_err`.
    pub fn call(name: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
        move |error| KvmError::Call(name, error.into())
    }
}

/// Takes over an opened `/dev/kvm` and checks that it offers what a microVM needs.
pub fn open(kvm: OwnedFd) -> Result<Kvm, KvmError> {
    // SAFETY: the descriptor is open and nobody else owns it.
    let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
    match kvm.get_api_version() {
        version if u32::try_from(version) == Ok(KVM_API_VERSION) => {}
        version => return Err(KvmError::ApiVersion(version)),
    }
    match machine::REQUIRED
        .into_iter()
        .find(|cap| !kvm.check_extension(*cap))
    {
        None => Ok(kvm),
        Some(missing) => Err(KvmError::Missing(missing)),
    }
}

/// Gives the virtual machine its RAM, in slots from 0. `memory` must outlive it.
pub fn set_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), KvmError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        add_memory(vm, slot, memory, region.start_addr(), region.len())?;
    }
    Ok(())
}

/// Gives the virtual machine `size` bytes of `memory` from `start`, in a slot that is not used yet. `memory` must outlive it.
pub fn add_memory(
    vm: &VmFd,
    slot: u32,
    memory: &GuestMemory,
    start: GuestAddress,
    size: u64,
) -> Result<(), KvmError> {
    let failed = |error| KvmError::Call("KVM_SET_USER_MEMORY_REGION", error);
    let host = memory::host_address(memory, start, size).map_err(failed)?;
    let slot = kvm_bindings::kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: start.raw_value(),
        memory_size: size,
        userspace_addr: host as u64,
    };
    // SAFETY: the range is mapped for as long as the memory lives, which outlives the virtual machine, and no other slot
    // covers its addresses.
    unsafe { vm.set_user_memory_region(slot) }.map_err(|error| failed(error.into()))
}
