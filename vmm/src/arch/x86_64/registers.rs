//! The boot processor's registers at the kernel's entry point. The other processors wait for the guest to start them.

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::boot::EntryPoint;
use super::layout;
use crate::kvm::KvmError;
use vm_memory::Address;

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

/// Bit 1 of RFLAGS is always set; interrupts are off.
const RFLAGS: u64 = 2;

/// The descriptors that [`super::boot`] writes to [`layout::GDT`], by index.
pub const DESCRIPTORS: usize = 5;
const CODE_32: u8 = 1;
const CODE_64: u8 = 2;
const DATA: u8 = 3;
const TASK_STATE: u8 = 4;

/// Puts the boot processor at `entry`.
pub fn set(vcpu: &VcpuFd, entry: EntryPoint) -> Result<(), KvmError> {
    let mut special = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
    let data = segment(DATA);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.tr = segment(TASK_STATE);
    special.gdt.base = layout::GDT.raw_value();
    special.gdt.limit = u16::try_from(DESCRIPTORS * size_of::<u64>() - 1).expect("a handful of descriptors");
    special.idt.base = 0;
    special.idt.limit = 0;

    let mut general = kvm_regs {
        rflags: RFLAGS,
        rsp: layout::BOOT_STACK.raw_value(),
        rbp: layout::BOOT_STACK.raw_value(),
        ..Default::default()
    };
    match entry {
        // xen/include/public/arch-x86/hvm/start_info.h: flat 32-bit protected mode, EBX points to the start info.
        EntryPoint::Pvh(address) => {
            special.cs = segment(CODE_32);
            special.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
            special.cr4 = 0;
            general.rip = address.raw_value();
            general.rbx = layout::PVH_START_INFO.raw_value();
        }
        // Documentation/arch/x86/boot.rst, "64-bit boot protocol": identity-mapped, RSI points to the zero page.
        EntryPoint::Linux64(address) => {
            special.cs = segment(CODE_64);
            special.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
            special.cr3 = layout::PAGE_TABLES[0].raw_value();
            special.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
            special.efer |= EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
            general.rip = address.raw_value();
            general.rsi = layout::ZERO_PAGE.raw_value();
        }
    }
    vcpu.set_sregs(&special)
        .map_err(KvmError::call("KVM_SET_SREGS"))?;
    vcpu.set_regs(&general).map_err(KvmError::call("KVM_SET_REGS"))
}

/// The descriptor table that says the same as the segment registers.
pub fn descriptor_table() -> [u64; DESCRIPTORS] {
    let mut table = [0; DESCRIPTORS];
    for index in [CODE_32, CODE_64, DATA, TASK_STATE] {
        table[usize::from(index)] = descriptor(&segment(index));
    }
    table
}

/// A flat segment. (Intel SDM volume 3, section 3.4.5; types from table 3-1.)
fn segment(index: u8) -> kvm_segment {
    const READ_EXECUTE_ACCESSED: u8 = 0xb;
    const READ_WRITE_ACCESSED: u8 = 0x3;
    const BUSY_TASK_STATE: u8 = 0xb;
    let (kind, is_code_or_data, long, default_32) = match index {
        CODE_32 => (READ_EXECUTE_ACCESSED, 1, 0, 1),
        CODE_64 => (READ_EXECUTE_ACCESSED, 1, 1, 0),
        DATA => (READ_WRITE_ACCESSED, 1, 0, 1),
        _ => (BUSY_TASK_STATE, 0, 0, 0),
    };
    kvm_segment {
        base: 0,
        limit: if is_code_or_data == 1 { 0xffff_ffff } else { 0x67 },
        selector: u16::from(index) * 8,
        type_: kind,
        present: 1,
        dpl: 0,
        db: default_32,
        s: is_code_or_data,
        l: long,
        g: is_code_or_data,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// A segment as an entry of the descriptor table (Intel SDM volume 3, figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}
