//! Guest memory. This module alone names the memory backend, so that changing it changes one file.

use std::io;

use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion};

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
            populate(region).map_err(|source| MemoryError::Prefault { mib, source })?;
        }
    }
    Ok(memory)
}

/// Asks for transparent huge pages, which make the faults of a booting kernel hundreds of times fewer; but not for the
/// first one, of which a guest touches a few small pages of boot data. A host without them is none the worse.
fn advise_page_size(region: &vm_memory::GuestRegionMmap<()>, huge: bool) {
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

/// Takes all pages of a region.
fn populate(region: &vm_memory::GuestRegionMmap<()>) -> io::Result<()> {
    // SAFETY: the range is one mapping of ours, and what it holds does not change.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_POPULATE_WRITE) };
    if result == 0 {
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
        length: u32,
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
pub fn give_back(memory: &GuestMemory, start: GuestAddress, length: u32) -> Result<(), GiveBackError> {
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    let of_pages = size > 0 && size.is_multiple_of(PAGE_SIZE) && start.0.is_multiple_of(PAGE_SIZE as u64);
    let slice = match memory.get_slice(start, size) {
        Ok(slice) if of_pages => slice,
        _ => return Err(GiveBackError::Range { start, length }),
    };
    let first = slice.ptr_guard_mut();
    // SAFETY: the range is within one mapping of ours, whose bytes may change at any time: they are the guest's.
    if unsafe { libc::madvise(first.as_ptr().cast(), size, libc::MADV_DONTNEED) } == 0 {
        return Ok(());
    }
    Err(GiveBackError::Host(io::Error::last_os_error()))
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
