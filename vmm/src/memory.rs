//! Guest memory. This module alone names the memory backend, so that changing it changes one file.

use std::io;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::config::MemoryBacking;

/// The guest's memory, cheap to clone: clones share the mapping.
pub type GuestMemory = GuestMemoryMmap<()>;

/// The size of a page, of the guest's as of the host's.
pub const PAGE_SIZE: usize = 4096;

/// The least memory that a guest can have, in MiB.
pub const MINIMUM_MIB: u32 = 16;

/// The guest's memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host's address space does not take it.
    #[error("{mib} MiB of guest memory do not fit into the VMM's address space")]
    DoesNotFit {
        /// What was asked for.
        mib: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The host's processors do not address it.
    #[error("{mib} MiB of guest memory do not fit: this host's processors address {bits} bits")]
    BeyondReach {
        /// What was asked for.
        mib: u64,
        /// The size of a physical address.
        bits: u32,
    },
    /// The host did not give all of it before the guest starts.
    #[error(
        "cannot take {mib} MiB of guest memory in advance; --prefault=off takes them as the guest needs them"
    )]
    Prefault {
        /// What was asked for.
        mib: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Maps the guest's RAM: anonymous, private, zero, and without a reservation, so that it costs what the guest touches
/// unless it is to be taken in advance.
pub fn allocate(ranges: &[(GuestAddress, u64)], backing: MemoryBacking) -> Result<GuestMemory, MemoryError> {
    let mib = ranges.iter().map(|(_, size)| size >> 20).sum();
    let does_not_fit = |source| MemoryError::DoesNotFit { mib, source };
    let sized = ranges
        .iter()
        .map(|&(start, size)| Ok((start, usize::try_from(size).map_err(|_| libc::ENOMEM)?)))
        .collect::<Result<Vec<_>, i32>>()
        .map_err(|errno| does_not_fit(io::Error::from_raw_os_error(errno)))?;
    let memory = GuestMemory::from_ranges(&sized).map_err(|error| does_not_fit(io::Error::other(error)))?;
    for region in memory.iter() {
        advise_page_size(region, backing.huge_pages);
        if backing.prefault {
            take(&memory, region.start_addr(), region.len())
                .map_err(|source| MemoryError::Prefault { mib, source })?;
        }
    }
    Ok(memory)
}

/// `memory` and `size` bytes more at `start`, where the guest finds nothing yet. They cost what is touched of them, as all
/// memory does; none where the host's address space does not take them.
pub fn reserve(
    memory: &GuestMemory,
    start: GuestAddress,
    size: u64,
    huge_pages: bool,
) -> Option<GuestMemory> {
    let more = GuestRegionMmap::from_range(start, usize::try_from(size).ok()?, None).ok()?;
    advise_page_size(&more, huge_pages);
    memory.insert_region(Arc::new(more)).ok()
}

/// Asks for transparent huge pages, which make the faults of a booting kernel hundreds of times fewer; but not for the
/// first one, of which a guest touches a few small pages of boot data. A host without them is none the worse.
fn advise_page_size(region: &GuestRegionMmap<()>, huge: bool) {
    const HUGE_PAGE: usize = 2 << 20;
    let small = match (huge, region.start_addr()) {
        (false, _) => region.size(),
        (true, GuestAddress(0)) => HUGE_PAGE.min(region.size()),
        (true, _) => 0,
    };
    for (start, size, advice) in [
        (0, small, libc::MADV_NOHUGEPAGE),
        (small, region.size() - small, libc::MADV_HUGEPAGE),
    ] {
        // SAFETY: the range is within one mapping of ours, and the advice does not change what it holds.
        unsafe { libc::madvise(region.as_ptr().add(start).cast(), size, advice) };
    }
}

/// Takes all pages of a range from the host.
///
/// # Errors
/// The host has not that much, or the range is not within one region of the guest's memory.
pub fn take(memory: &GuestMemory, start: GuestAddress, size: u64) -> io::Result<()> {
    advise(memory, start, size, libc::MADV_POPULATE_WRITE)
}

/// Where the VMM has `size` bytes of the guest's memory from `start`.
///
/// # Errors
/// The range is not within one region.
pub fn host_address(memory: &GuestMemory, start: GuestAddress, size: u64) -> io::Result<*mut u8> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    let slice = memory.get_slice(start, size).map_err(io::Error::other)?;
    Ok(slice.ptr_guard_mut().as_ptr())
}

/// Gives the host advice on a range that is within one region of the guest's memory.
fn advise(memory: &GuestMemory, start: GuestAddress, size: u64, advice: libc::c_int) -> io::Result<()> {
    let first = host_address(memory, start, size)?;
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the range is within one mapping of ours, whose bytes may change at any time: they are the guest's.
    if unsafe { libc::madvise(first.cast(), size, advice) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Why memory stays taken.
#[derive(Debug, thiserror::Error)]
pub enum GiveBackError {
    /// The range is not what can be given back.
    #[error("{length} bytes at {start:#x} are not whole pages of the guest's memory", start = start.0)]
    Range {
        /// Its first address.
        start: GuestAddress,
        /// Its size.
        length: u64,
    },
    /// The host refused.
    #[error("the host does not take memory back")]
    Host(#[source] io::Error),
}

/// Gives `length` bytes from `start` back to the host. They are zero from then on, and cost nothing until the guest
/// touches them. The range may be any: it is the guest that names it.
///
/// # Errors
/// The range is not made of whole pages within one region of the guest's memory; or the host keeps it.
pub fn give_back(memory: &GuestMemory, start: GuestAddress, length: u64) -> Result<(), GiveBackError> {
    let page = PAGE_SIZE as u64;
    let of_pages = length > 0 && length.is_multiple_of(page) && start.0.is_multiple_of(page);
    if !of_pages || host_address(memory, start, length).is_err() {
        return Err(GiveBackError::Range { start, length });
    }
    advise(memory, start, length, libc::MADV_DONTNEED).map_err(GiveBackError::Host)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Address, Bytes};

    use super::*;

    #[test]
    fn memory_is_zero_and_has_a_gap() {
        let ranges = [(GuestAddress(0), 4 << 20), (GuestAddress(16 << 20), 4 << 20)];
        let memory = allocate(&ranges, MemoryBacking::default()).unwrap();
        assert_eq!(memory.last_addr(), GuestAddress((20 << 20) - 1));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1234)).unwrap(), 0);
        memory.write_obj(7u64, GuestAddress(16 << 20)).unwrap();
        assert!(
            memory
                .write_obj(7u64, GuestAddress(4 << 20).unchecked_sub(4))
                .is_err()
        );
    }

    #[test]
    fn memory_beyond_the_address_space_is_refused_by_size() {
        let error = allocate(&[(GuestAddress(0), 1 << 50)], MemoryBacking::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("1073741824 MiB of guest memory do not fit")
        );
    }
}
