//! What a kernel finds in memory at its entry point: command line, memory map, initramfs, processors.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory as _, GuestMemoryError, GuestMemoryRegion};

use super::{layout, mptable, registers};
use crate::memory::GuestMemory;

/// Where the boot processor starts, and by which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryPoint {
    /// Xen's PVH protocol: 32-bit protected mode.
    Pvh(GuestAddress),
    /// Linux's 64-bit protocol.
    Linux64(GuestAddress),
}

/// Where the initial RAM file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initramfs {
    /// Its first byte.
    pub start: GuestAddress,
    /// Its size in bytes.
    pub size: u32,
}

/// The boot data could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The command line is too long.
    #[error(
        "the kernel's command line has {0} bytes with the devices' parameters; Linux takes at most {max}",
        max = layout::COMMAND_LINE_SIZE - 1
    )]
    CommandLineTooLong(usize),
    /// The command line has a byte that would end it.
    #[error("the kernel's command line contains a NUL byte")]
    CommandLineNul,
    /// The guest's memory does not reach far enough.
    #[error("cannot write the boot data into the guest's memory")]
    Memory(#[from] GuestMemoryError),
}

/// Writes everything that a kernel of either protocol reads.
pub fn write(
    memory: &GuestMemory,
    entry: EntryPoint,
    command_line: &str,
    initramfs: Option<Initramfs>,
    processors: u8,
) -> Result<(), BootError> {
    write_command_line(memory, command_line)?;
    mptable::write(memory, processors)?;
    memory.write_slice(&bytes_of(&registers::descriptor_table()), layout::GDT)?;
    match entry {
        EntryPoint::Pvh(_) => write_start_info(memory, initramfs)?,
        EntryPoint::Linux64(_) => {
            write_zero_page(memory, command_line, initramfs)?;
            write_page_tables(memory)?;
        }
    }
    Ok(())
}

fn write_command_line(memory: &GuestMemory, command_line: &str) -> Result<(), BootError> {
    let mut bytes = command_line.as_bytes().to_vec();
    if bytes.contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    if bytes.len() >= layout::COMMAND_LINE_SIZE {
        return Err(BootError::CommandLineTooLong(bytes.len()));
    }
    bytes.push(0);
    Ok(memory.write_slice(&bytes, layout::COMMAND_LINE)?)
}

/// A range of the memory map. RAM is all that the guest is told of; Linux takes the rest for reserved.
struct Ram {
    start: u64,
    size: u64,
}

/// The types in PVH's and the BIOS's (E820) memory maps are the same.
const TYPE_RAM: u32 = 1;

fn memory_map(memory: &GuestMemory) -> Vec<Ram> {
    let mut map = vec![Ram {
        start: 0,
        size: layout::MP_TABLE.raw_value(),
    }];
    for region in memory.iter() {
        let start = region.start_addr().max(layout::TOLD_RAM).raw_value();
        let end = region.start_addr().raw_value() + region.len();
        map.push(Ram {
            start,
            size: end.saturating_sub(start),
        });
    }
    map
}

fn write_start_info(memory: &GuestMemory, initramfs: Option<Initramfs>) -> Result<(), GuestMemoryError> {
    const MAGIC: u32 = 0x336e_c578;
    let map: Vec<_> = memory_map(memory)
        .into_iter()
        .map(|Ram { start, size }| hvm_memmap_table_entry {
            addr: start,
            size,
            type_: TYPE_RAM,
            reserved: 0,
        })
        .collect();
    for (entry, address) in map
        .iter()
        .zip((layout::PVH_MEMORY_MAP.raw_value()..).step_by(size_of_val(&map[0])))
    {
        memory.write_obj(*entry, GuestAddress(address))?;
    }
    if let Some(Initramfs { start, size }) = initramfs {
        let module = hvm_modlist_entry {
            paddr: start.raw_value(),
            size: size.into(),
            ..Default::default()
        };
        memory.write_obj(module, layout::PVH_MODULES)?;
    }
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: initramfs.is_some().into(),
        modlist_paddr: layout::PVH_MODULES.raw_value(),
        cmdline_paddr: layout::COMMAND_LINE.raw_value(),
        memmap_paddr: layout::PVH_MEMORY_MAP.raw_value(),
        memmap_entries: u32::try_from(map.len()).expect("RAM is in two pieces at most"),
        ..Default::default()
    };
    memory.write_obj(info, layout::PVH_START_INFO)
}

fn write_zero_page(
    memory: &GuestMemory,
    command_line: &str,
    initramfs: Option<Initramfs>,
) -> Result<(), GuestMemoryError> {
    const BOOT_FLAG: u16 = 0xaa55;
    const HEADER_MAGIC: u32 = 0x5372_6448; // "HdrS"
    const LOADER_WITHOUT_AN_ID: u8 = 0xff;
    let mut page = boot_params::default();
    page.hdr.boot_flag = BOOT_FLAG;
    page.hdr.header = HEADER_MAGIC;
    page.hdr.type_of_loader = LOADER_WITHOUT_AN_ID;
    page.hdr.kernel_alignment = 0x100_0000;
    page.hdr.cmd_line_ptr = u32::try_from(layout::COMMAND_LINE.raw_value()).expect("it is below 1 MiB");
    page.hdr.cmdline_size = u32::try_from(command_line.len()).expect("its length has been checked");
    if let Some(Initramfs { start, size }) = initramfs {
        page.hdr.ramdisk_image = u32::try_from(start.raw_value()).expect("the initramfs is below the gap");
        page.hdr.ramdisk_size = size;
    }
    for (slot, Ram { start, size }) in page.e820_table.iter_mut().zip(memory_map(memory)) {
        *slot = boot_e820_entry {
            addr: start,
            size,
            type_: TYPE_RAM,
        };
        page.e820_entries += 1;
    }
    memory.write_obj(page, layout::ZERO_PAGE)
}

/// Maps the first GiB to itself with pages of 2 MiB.
pub fn write_page_tables(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    let [level4, level3, level2] = layout::PAGE_TABLES;
    memory.write_obj(level3.raw_value() | PRESENT_WRITABLE, level4)?;
    memory.write_obj(level2.raw_value() | PRESENT_WRITABLE, level3)?;
    let entries: Vec<u64> = (0..512u64).map(|n| n << 21 | LARGE | PRESENT_WRITABLE).collect();
    memory.write_slice(&bytes_of(&entries), level2)
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
