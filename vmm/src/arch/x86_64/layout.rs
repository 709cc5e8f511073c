//! The guest's physical address space.
//!
//! ```text
//! 0x0000_0000  boot data: see the constants            conventional RAM
//! 0x0009_F000  MP configuration table                  reserved, up to 1 MiB
//! 0x0010_0000  for kernels that load here              RAM, of which the guest is not told
//! 0x0020_0000  kernel, and behind it the initramfs     RAM, up to 3 GiB
//! 0xC000_0000  gap: virtio-mmio windows, IOAPIC, local APIC, KVM's own pages
//! 0x1_0000_0000  the rest                              RAM
//! behind it      what RAM can grow by                  blocks of the memory device
//! ```

use vm_memory::GuestAddress;

/// The 16-bit flag by which an operating system tells the BIOS what kind of reset it asks for: [`WARM_RESET`] for a
/// warm one.
pub const RESET_FLAG: GuestAddress = GuestAddress(0x472);
/// The value of [`RESET_FLAG`] for a warm reset.
pub const WARM_RESET: u16 = 0x1234;

/// The global descriptor table for the first instructions.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// The boot stack grows down from here.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x6000);
/// PVH's start info, and behind it its module list.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// PVH's module list.
pub const PVH_MODULES: GuestAddress = GuestAddress(0x6040);
/// PVH's memory map.
pub const PVH_MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
/// Linux's boot parameters ("zero page").
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x8000);
/// The page tables that map the first 1 GiB to itself: one page each of levels 4, 3 and 2.
pub const PAGE_TABLES: [GuestAddress; 3] = [GuestAddress(0xa000), GuestAddress(0xb000), GuestAddress(0xc000)];
/// The kernel's command line, with its terminating zero.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Linux's COMMAND_LINE_SIZE on x86, with the terminating zero.
pub const COMMAND_LINE_SIZE: usize = 2048;

/// The end of conventional RAM, where the MP configuration table is.
pub const MP_TABLE: GuestAddress = GuestAddress(0x9_f000);
/// The last KiB below 640 KiB, where an operating system looks for the MP floating pointer.
pub const MP_POINTER: GuestAddress = GuestAddress(0x9_fc00);

/// Where RAM goes on behind the hole for video memory and BIOS, and the lowest address of a kernel.
pub const HIGH_RAM: GuestAddress = GuestAddress(0x10_0000);
/// Where RAM goes on as the guest is told. The host backs the first 2 MiB by small pages, for the boot data: a guest that
/// allocated memory there would take them one by one. Linux adds what it is loaded at by itself.
pub const TOLD_RAM: GuestAddress = GuestAddress(0x20_0000);

/// The gap in RAM below 4 GiB.
pub const GAP: std::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;
/// The windows of the virtio-mmio devices.
pub const MMIO_WINDOWS: u64 = 0xd000_0000;
/// KVM's identity-mapped page (needed on Intel processors without unrestricted guests).
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// KVM's three pages for a task state segment (likewise).
pub const TSS: u64 = 0xfffb_d000;
/// The I/O APIC's registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// The interrupt of the first serial port.
pub const SERIAL_INTERRUPT: u32 = 4;
/// The interrupts that virtio-mmio devices can have: those of the I/O APIC that no PC device claims by custom.
pub const DEVICE_INTERRUPTS: std::ops::RangeInclusive<u32> = 5..=23;

/// The ranges of a RAM of `size` bytes: below the gap, and what does not fit there above it.
pub fn ram(size: u64) -> Vec<(GuestAddress, u64)> {
    match size.checked_sub(GAP.start) {
        None | Some(0) => vec![(GuestAddress(0), size)],
        Some(rest) => vec![(GuestAddress(0), GAP.start), (GuestAddress(GAP.end), rest)],
    }
}

/// Linux takes memory that comes later into use in pieces of up to this size, aligned to it.
const GROWTH_ALIGNMENT: u64 = 2 << 30;

/// The range in which a RAM of `size` bytes can grow by `more`, with addresses below `reach`: its start and its size, which
/// is 0 if there is no room.
pub fn growth(size: u64, more: u64, reach: u64) -> (GuestAddress, u64) {
    let above_gap = GAP.end.saturating_add(size.saturating_sub(GAP.start));
    let start = above_gap.next_multiple_of(GROWTH_ALIGNMENT);
    let room = reach.saturating_sub(start) / GROWTH_ALIGNMENT;
    let wanted = more.div_ceil(GROWTH_ALIGNMENT);
    (GuestAddress(start), room.min(wanted) * GROWTH_ALIGNMENT)
}
