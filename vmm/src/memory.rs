//! Guest memory. This module alone names the memory backend, so that changing it changes one file.

use std::io;

use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryMmap};

/// The guest's memory, cheap to clone: clones share the mapping.
pub type GuestMemory = GuestMemoryMmap<()>;

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
}

/// Maps the guest's RAM: anonymous, private, zero, and without a reservation, so that it costs what the guest touches.
pub fn allocate(ranges: &[(GuestAddress, u64)]) -> Result<GuestMemory, MemoryError> {
    let mib = ranges.iter().map(|(_, size)| size >> 20).sum();
    let does_not_fit = |source| MemoryError::DoesNotFit { mib, source };
    let sized = ranges
        .iter()
        .map(|&(start, size)| Ok((start, usize::try_from(size).map_err(|_| libc::ENOMEM)?)))
        .collect::<Result<Vec<_>, i32>>()
        .map_err(|errno| does_not_fit(io::Error::from_raw_os_error(errno)))?;
    let memory = GuestMemory::from_ranges(&sized).map_err(|error| does_not_fit(io::Error::other(error)))?;
    for region in memory.iter() {
        prefer_huge_pages(region);
    }
    Ok(memory)
}

/// Asks for transparent huge pages, which make the faults of a booting kernel hundreds of times fewer. A host without
/// them is none the worse.
fn prefer_huge_pages(region: &vm_memory::GuestRegionMmap<()>) {
    // SAFETY: the range is exactly one mapping of ours, and the advice does not change what it holds.
    unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_HUGEPAGE) };
}
