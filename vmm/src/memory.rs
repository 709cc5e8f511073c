//! Guest memory. This module alone names the memory backend, so that changing it changes one file.

use vm_memory::GuestMemoryMmap;

/// The guest's memory, cheap to clone: clones share the mapping.
pub type GuestMemory = GuestMemoryMmap<()>;
