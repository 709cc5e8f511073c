//! Loading a kernel: what it must be, and what is said of one that is not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory as _, GuestMemoryError};

use super::boot::{EntryPoint, Initramfs};
use super::layout;
use crate::memory::{GuestMemory, PAGE_SIZE};

/// A kernel or initramfs cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No bytes.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// The file could not be read.
    #[error("cannot read the {0}")]
    Read(&'static str, #[source] io::Error),
    /// Some other file.
    #[error("the kernel is not an ELF file; give an uncompressed vmlinux")]
    NotElf,
    /// A compressed kernel.
    #[error("the kernel is a compressed bzImage; give the uncompressed vmlinux that it was made from")]
    Compressed,
    /// For another processor.
    #[error(
        "the kernel is for another machine ({class}-bit, ELF machine {machine}), not for x86-64 (64-bit, 62)"
    )]
    WrongMachine {
        /// 32 or 64.
        class: u8,
        /// The e_machine field.
        machine: u16,
    },
    /// Shorter than its headers say.
    #[error("the kernel is truncated: its headers describe {expected} bytes, the file has {actual}")]
    Truncated {
        /// By the program headers.
        expected: u64,
        /// The file's size.
        actual: u64,
    },
    /// It has no code.
    #[error("the kernel has no loadable segment")]
    NothingToLoad,
    /// It wants to be where the boot data is.
    #[error("the kernel loads at {0:#x}, below 1 MiB, where the boot data is; is it a vmlinux?")]
    TooLow(u64),
    /// It is larger than the guest.
    #[error(
        "the guest's memory of {memory_mib} MiB is too small: the {what} needs it to have at least {needed_mib} MiB"
    )]
    DoesNotFit {
        /// The kernel, or both.
        what: &'static str,
        /// The least that would do.
        needed_mib: u64,
        /// What there is below the 32-bit gap.
        memory_mib: u64,
    },
    /// The loader refused it.
    #[error("the kernel cannot be loaded")]
    Loader(#[source] linux_loader::loader::Error),
    /// The initramfs became shorter while it was read.
    #[error("cannot read the initramfs into the guest's memory")]
    Initramfs(#[source] GuestMemoryError),
}

/// A kernel in the guest's memory.
#[derive(Debug, Clone, Copy)]
pub struct LoadedKernel {
    /// Where it starts.
    pub entry: EntryPoint,
    /// The first address behind it.
    pub end: GuestAddress,
}

/// Reads the kernel's segments straight into the guest's memory.
pub fn load(memory: &GuestMemory, mut image: File) -> Result<LoadedKernel, KernelError> {
    check(memory, &image)?;
    let loaded = Elf::load(memory, None, &mut image, Some(layout::HIGH_RAM)).map_err(KernelError::Loader)?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => EntryPoint::Pvh(address),
        _ => EntryPoint::Linux64(loaded.kernel_load),
    };
    Ok(LoadedKernel {
        entry,
        end: GuestAddress(loaded.kernel_end),
    })
}

/// Our kernel makes folios of this size of the pages of an initramfs, in bytes.
const FOLIO_SIZE: u64 = 64 << 10;

/// Reads the initramfs straight into the guest's memory, right behind the kernel: there it shares pages of the host with
/// the kernel's end, and with what the guest allocates first. Its second page, with which the agent begins in ours, is
/// where a folio can begin.
pub fn load_initramfs(
    memory: &GuestMemory,
    kernel: &LoadedKernel,
    mut image: File,
) -> Result<Initramfs, KernelError> {
    const WHAT: &str = "initramfs";
    let size = size(&image, WHAT)?;
    let top = low_ram(memory);
    let does_not_fit = || KernelError::DoesNotFit {
        what: "kernel with its initramfs",
        needed_mib: mib(kernel.end.raw_value().saturating_add(size)),
        memory_mib: top >> 20,
    };
    let size32 = u32::try_from(size).map_err(|_| does_not_fit())?;
    let start = kernel
        .end
        .raw_value()
        .checked_add(PAGE_SIZE as u64)
        .and_then(|second_page| second_page.checked_next_multiple_of(FOLIO_SIZE))
        .map(|second_page| second_page - PAGE_SIZE as u64)
        .filter(|start| start.checked_add(size).is_some_and(|end| end <= top))
        .map(GuestAddress)
        .ok_or_else(does_not_fit)?;
    memory
        .read_exact_volatile_from(start, &mut image, size32 as usize)
        .map_err(KernelError::Initramfs)?;
    Ok(Initramfs { start, size: size32 })
}

/// The end of the RAM below the gap.
fn low_ram(memory: &GuestMemory) -> u64 {
    layout::GAP.start.min(memory.last_addr().raw_value() + 1)
}

/// Bytes in MiB, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn size(image: &File, what: &'static str) -> Result<u64, KernelError> {
    match image
        .metadata()
        .map_err(|error| KernelError::Read(what, error))?
        .len()
    {
        0 => Err(KernelError::Empty(what)),
        size => Ok(size),
    }
}

/// The fields of the ELF headers that matter here (ELF-64 object file format, figures 2 and 6).
mod elf {
    pub const HEADER_SIZE: usize = 64;
    pub const CLASS: usize = 4;
    pub const MACHINE: usize = 18;
    pub const PROGRAM_HEADERS: usize = 32;
    pub const PROGRAM_HEADER_COUNT: usize = 56;

    pub const CLASS_64: u8 = 2;
    pub const MACHINE_X86_64: u16 = 62;

    pub const PROGRAM_HEADER_SIZE: usize = 56;
    pub const SEGMENT_OFFSET: usize = 8;
    pub const SEGMENT_ADDRESS: usize = 24;
    pub const SEGMENT_FILE_SIZE: usize = 32;
    pub const SEGMENT_MEMORY_SIZE: usize = 40;
    pub const LOAD: u32 = 1;
}

/// Checks all that can be wrong with a kernel while it can be said clearly: the loader's own errors say less.
fn check(memory: &GuestMemory, image: &File) -> Result<(), KernelError> {
    const WHAT: &str = "kernel";
    let actual = size(image, WHAT)?;
    let truncated = |expected| KernelError::Truncated { expected, actual };
    let mut header = [0; elf::HEADER_SIZE];
    let have = image
        .read_at(&mut header, 0)
        .map_err(|error| KernelError::Read(WHAT, error))?;
    if !header.starts_with(b"\x7fELF") {
        return Err(if is_bzimage(image) {
            KernelError::Compressed
        } else {
            KernelError::NotElf
        });
    }
    if have < header.len() {
        return Err(truncated(header.len() as u64));
    }
    let machine = u16::from_le_bytes(field(&header, elf::MACHINE));
    if (header[elf::CLASS], machine) != (elf::CLASS_64, elf::MACHINE_X86_64) {
        let class = if header[elf::CLASS] == elf::CLASS_64 {
            64
        } else {
            32
        };
        return Err(KernelError::WrongMachine { class, machine });
    }
    let table = u64::from_le_bytes(field(&header, elf::PROGRAM_HEADERS));
    let count = u16::from_le_bytes(field(&header, elf::PROGRAM_HEADER_COUNT));
    let mut headers = vec![0; usize::from(count) * elf::PROGRAM_HEADER_SIZE];
    image
        .read_exact_at(&mut headers, table)
        .map_err(|_| truncated(table.saturating_add(headers.len() as u64)))?;

    let mut end = None;
    for header in headers.chunks_exact(elf::PROGRAM_HEADER_SIZE) {
        let word = |at| u64::from_le_bytes(field(header, at));
        if u32::from_le_bytes(field(header, 0)) != elf::LOAD || word(elf::SEGMENT_MEMORY_SIZE) == 0 {
            continue;
        }
        let in_file = word(elf::SEGMENT_OFFSET).saturating_add(word(elf::SEGMENT_FILE_SIZE));
        if in_file > actual {
            return Err(truncated(in_file));
        }
        let address = word(elf::SEGMENT_ADDRESS);
        if address < layout::HIGH_RAM.raw_value() {
            return Err(KernelError::TooLow(address));
        }
        let size = word(elf::SEGMENT_MEMORY_SIZE).max(word(elf::SEGMENT_FILE_SIZE));
        end = end.max(Some(address.saturating_add(size)));
    }
    let end = end.ok_or(KernelError::NothingToLoad)?;
    let top = low_ram(memory);
    if end > top {
        return Err(KernelError::DoesNotFit {
            what: WHAT,
            needed_mib: mib(end),
            memory_mib: top >> 20,
        });
    }
    Ok(())
}

fn is_bzimage(image: &File) -> bool {
    const SETUP_MAGIC_OFFSET: u64 = 0x202;
    let mut magic = [0; 4];
    image.read_exact_at(&mut magic, SETUP_MAGIC_OFFSET).is_ok() && magic == *b"HdrS"
}

/// `N` bytes of a header. The offsets are constants within it.
fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header
        .get(at..at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .expect("a field of an ELF header is within the header")
}
