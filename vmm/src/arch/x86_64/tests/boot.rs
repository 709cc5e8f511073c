use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Address, Bytes, GuestAddress};

use crate::arch::x86_64::boot::{self, BootError, EntryPoint, Initramfs};
use crate::arch::x86_64::{layout, registers};
use crate::config::MemoryBacking;
use crate::memory::{self, GuestMemory};

const ENTRY: GuestAddress = GuestAddress(0x100_0000);
const INITRAMFS: Initramfs = Initramfs {
    start: GuestAddress(0x700_0000),
    size: 12_345,
};

fn memory(size: u64) -> GuestMemory {
    memory::allocate(&layout::ram(size), MemoryBacking::default()).unwrap()
}

fn read<T: vm_memory::ByteValued>(memory: &GuestMemory, address: u64) -> T {
    memory.read_obj(GuestAddress(address)).unwrap()
}

#[test]
fn ram_goes_on_above_the_gap() {
    assert_eq!(layout::ram(128 << 20), [(GuestAddress(0), 128 << 20)]);
    assert_eq!(layout::ram(3 << 30), [(GuestAddress(0), 3 << 30)]);
    assert_eq!(
        layout::ram(5 << 30),
        [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 2 << 30)]
    );
}

#[test]
fn ram_grows_behind_itself_above_the_gap_and_within_reach() {
    const GIB: u64 = 1 << 30;
    let growth = |size, more, reach| {
        let (start, size) = layout::growth(size * GIB, more * GIB, reach * GIB);
        (start.raw_value() / GIB, size / GIB)
    };
    assert_eq!(growth(1, 0, 64), (4, 0));
    assert_eq!(growth(1, 1, 64), (4, 2));
    assert_eq!(growth(3, 4, 64), (4, 4));
    assert_eq!(growth(4, 1, 64), (6, 2));
    assert_eq!(growth(6, 9, 64), (8, 10));
    assert_eq!(growth(6, 9, 11), (8, 2));
    assert_eq!(growth(6, 9, 7), (8, 0));
    let (start, size) = layout::growth(u64::from(u32::MAX) << 20, u64::from(u32::MAX) << 20, 1 << 63);
    assert!(start.raw_value() >= u64::from(u32::MAX) << 20 && size >= u64::from(u32::MAX) << 20);
}

#[test]
fn the_windows_are_within_the_gap_and_out_of_kvms_way() {
    let windows = layout::MMIO_WINDOWS..layout::MMIO_WINDOWS + 32 * 0x1000;
    assert!(layout::GAP.contains(&windows.start) && windows.end <= u64::from(layout::IOAPIC));
    assert_eq!(layout::IDENTITY_MAP + 0x1000, layout::TSS);
    const { assert!(layout::TSS + 0x3000 <= layout::GAP.end) };
}

#[test]
fn pvh_finds_its_start_info() {
    let memory = memory(4 << 30);
    boot::write(&memory, EntryPoint::Pvh(ENTRY), "quiet", Some(INITRAMFS), 1).unwrap();
    let info: hvm_start_info = read(&memory, layout::PVH_START_INFO.raw_value());
    assert_eq!(
        (info.magic, info.version, info.nr_modules, info.memmap_entries),
        (0x336e_c578, 1, 1, 3)
    );
    let module: hvm_modlist_entry = read(&memory, info.modlist_paddr);
    assert_eq!((module.paddr, module.size), (0x700_0000, 12_345));
    let mut line = [0; 6];
    memory
        .read_slice(&mut line, GuestAddress(info.cmdline_paddr))
        .unwrap();
    assert_eq!(&line, b"quiet\0");
    let map: Vec<(u64, u64, u32)> = (0..3)
        .map(|entry| {
            let entry: hvm_memmap_table_entry = read(&memory, info.memmap_paddr + entry * 24);
            (entry.addr, entry.addr + entry.size, entry.type_)
        })
        .collect();
    assert_eq!(
        map,
        [(0, 0x9_f000, 1), (0x20_0000, 3 << 30, 1), (4 << 30, 5 << 30, 1)]
    );
}

#[test]
fn pvh_without_an_initramfs_has_no_module() {
    let memory = memory(64 << 20);
    boot::write(&memory, EntryPoint::Pvh(ENTRY), "", None, 1).unwrap();
    let info: hvm_start_info = read(&memory, layout::PVH_START_INFO.raw_value());
    assert_eq!((info.nr_modules, info.memmap_entries), (0, 2));
}

#[test]
fn the_64_bit_entry_finds_its_zero_page_and_page_tables() {
    let memory = memory(128 << 20);
    boot::write(&memory, EntryPoint::Linux64(ENTRY), "quiet", Some(INITRAMFS), 1).unwrap();
    let page: boot_params = read(&memory, layout::ZERO_PAGE.raw_value());
    let header = page.hdr;
    assert_eq!({ header.boot_flag }, 0xaa55);
    assert_eq!(({ header.cmd_line_ptr }, { header.cmdline_size }), (0x2_0000, 5));
    assert_eq!(
        ({ header.ramdisk_image }, { header.ramdisk_size }),
        (0x700_0000, 12_345)
    );
    assert_eq!(page.e820_entries, 2);
    let [level4, level3, level2] = layout::PAGE_TABLES.map(|table| table.raw_value());
    assert_eq!(read::<u64>(&memory, level4), level3 | 3);
    assert_eq!(read::<u64>(&memory, level3), level2 | 3);
    assert_eq!(read::<u64>(&memory, level2 + 511 * 8), 511 << 21 | 0x83);
}

#[test]
fn a_command_line_that_linux_would_cut_is_refused() {
    let memory = memory(64 << 20);
    let write = |line: &str| boot::write(&memory, EntryPoint::Pvh(ENTRY), line, None, 1);
    assert!(write(&"x".repeat(2047)).is_ok());
    let error = write(&"x".repeat(2048)).unwrap_err();
    assert!(matches!(error, BootError::CommandLineTooLong(2048)) && error.to_string().contains("2047"));
    assert!(matches!(write("a\0b"), Err(BootError::CommandLineNul)));
}

#[test]
fn descriptors_are_those_of_the_boot_protocol() {
    // Null; 32-bit code, 64-bit code, data, all flat; task state.
    let expected = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x0000_8b00_0000_0067,
    ];
    assert_eq!(registers::descriptor_table(), expected);
}

/// The MP table as a guest reads it.
fn mp_entries(processors: u8) -> Vec<Vec<u8>> {
    let memory = memory(64 << 20);
    boot::write(&memory, EntryPoint::Pvh(ENTRY), "", None, processors).unwrap();
    let mut pointer = [0; 16];
    memory.read_slice(&mut pointer, layout::MP_POINTER).unwrap();
    assert!(pointer.starts_with(b"_MP_") && sums_to_zero(&pointer));
    let table = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
    let mut header = [0; 44];
    memory
        .read_slice(&mut header, GuestAddress(table.into()))
        .unwrap();
    assert!(header.starts_with(b"PCMP"));
    let mut bytes = vec![0; u16::from_le_bytes([header[4], header[5]]).into()];
    memory.read_slice(&mut bytes, GuestAddress(table.into())).unwrap();
    assert!(sums_to_zero(&bytes));
    assert!(u64::from(table) + (bytes.len() as u64) <= layout::MP_POINTER.raw_value());
    let mut rest = &bytes[44..];
    let mut entries = Vec::new();
    while let Some(kind) = rest.first() {
        let (entry, behind) = rest.split_at(if *kind == 0 { 20 } else { 8 });
        entries.push(entry.to_vec());
        rest = behind;
    }
    assert_eq!(
        entries.len(),
        usize::from(u16::from_le_bytes([header[34], header[35]]))
    );
    entries
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

#[test]
fn the_mp_table_lists_processors_and_interrupts() {
    for count in [1, 3, crate::config::VmConfig::MAX_VCPUS] {
        let entries = mp_entries(count);
        let processors: Vec<_> = entries.iter().filter(|entry| entry[0] == 0).collect();
        assert_eq!(processors.len(), usize::from(count));
        assert_eq!(
            processors.iter().filter(|entry| entry[3] & 2 != 0).count(),
            1,
            "one boots"
        );
        assert!(processors.iter().zip(0u8..).all(|(entry, id)| entry[1] == id));
        let ioapic = entries.iter().find(|entry| entry[0] == 2).unwrap();
        assert_eq!(
            u32::from_le_bytes(ioapic[4..].try_into().unwrap()),
            layout::IOAPIC
        );
        for interrupt in layout::DEVICE_INTERRUPTS.chain([layout::SERIAL_INTERRUPT]) {
            let interrupt = u8::try_from(interrupt).unwrap();
            let routed = entries
                .iter()
                .find(|entry| entry[0] == 3 && entry[5] == interrupt)
                .unwrap();
            assert_eq!((routed[6], routed[7]), (ioapic[1], interrupt));
        }
    }
}
