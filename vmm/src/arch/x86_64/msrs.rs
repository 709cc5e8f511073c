//! The model-specific registers that a guest expects firmware to have set.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::kvm::KvmError;

/// IA32_MISC_ENABLE, and in it: string instructions are fast. Linux gives up `rep movsb` on Intel without it.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE, and in it: MTRRs are on, memory is write-back by default.
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Sets them. Which registers there are is the host's matter: one that KVM refuses is left alone.
pub fn set(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut rest: &[kvm_msr_entry] = &[
        entry(MTRR_DEFAULT_TYPE, MTRR_ON_WRITE_BACK),
        entry(MISC_ENABLE, FAST_STRINGS),
    ];
    while !rest.is_empty() {
        let msrs = Msrs::from_entries(rest).expect("fewer than the most that KVM takes");
        // KVM says how many it set, and stops at the first that it refuses.
        let set = vcpu.set_msrs(&msrs).map_err(KvmError::call("KVM_SET_MSRS"))?;
        rest = rest.get(set + 1..).unwrap_or_default();
    }
    Ok(())
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}
