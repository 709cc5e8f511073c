//! The virtual machine with its interrupt controllers, and its processors.

use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, kvm_enable_cap};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::boot::EntryPoint;
use super::cpuid::Processors;
use super::{layout, msrs, registers};
use crate::kvm::KvmError;

/// Makes a virtual machine with PIC, I/O APIC and local APICs in the kernel.
///
/// There is no PIT: the guest has kvm-clock for the time of day and the TSC's frequency, and the local APIC's timer in
/// TSC-deadline mode for its ticks, and needs nothing to calibrate them by. KVM would start a kernel thread for a PIT.
pub fn create(kvm: &Kvm) -> Result<VmFd, KvmError> {
    let vm = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(KvmError::call("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(usize::try_from(layout::TSS).expect("addresses have 64 bits here"))
        .map_err(KvmError::call("KVM_SET_TSS_ADDR"))?;
    disable_performance_counters(&vm);
    vm.create_irq_chip()
        .map_err(KvmError::call("KVM_CREATE_IRQCHIP"))?;
    Ok(vm)
}

/// A guest does without performance counters: they are a side channel, and its kernel would spend time on finding out
/// which it has. A KVM that cannot switch them off (before Linux 5.18) still hides them, by CPUID.
fn disable_performance_counters(vm: &VmFd) {
    let _ = vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        args: [KVM_PMU_CAP_DISABLE.into(), 0, 0, 0],
        ..Default::default()
    });
}

/// Makes a virtual processor. The first one is at `entry`; the others wait for the guest to start them.
pub fn create_vcpu(
    vm: &VmFd,
    processors: &Processors,
    index: u8,
    entry: EntryPoint,
) -> Result<VcpuFd, KvmError> {
    let vcpu = vm
        .create_vcpu(index.into())
        .map_err(KvmError::call("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(&processors.identify(index)?)
        .map_err(KvmError::call("KVM_SET_CPUID2"))?;
    msrs::set(&vcpu)?;
    if index == 0 {
        registers::set(&vcpu, entry)?;
    } else {
        list_apic(&vcpu)?;
    }
    Ok(vcpu)
}

/// Has KVM look again at which local APICs there are. It does so when a guest sets one up, but not when a processor is made:
/// the interrupts that start one which was made later would find nobody.
fn list_apic(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let state = vcpu.get_lapic().map_err(KvmError::call("KVM_GET_LAPIC"))?;
    vcpu.set_lapic(&state).map_err(KvmError::call("KVM_SET_LAPIC"))
}

/// What a KVM must offer.
pub const REQUIRED: [Cap; 6] = [
    Cap::Irqchip,
    Cap::Irqfd,
    Cap::Ioeventfd,
    Cap::ImmediateExit,
    Cap::SetTssAddr,
    Cap::ExtCpuid,
];
