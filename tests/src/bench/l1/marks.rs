//! Where bulkhead-profiler counts, when it listens: instructions that do nothing, and of which there are no others.

use std::arch::asm;

/// The clock starts.
pub fn begin() {
    // SAFETY: an operand of `nop` is not accessed.
    unsafe {
        asm!(
            "nop dword ptr [rax + 0x6b6c7562]",
            options(nomem, nostack, preserves_flags)
        );
    };
}

/// The clock has stopped.
pub fn end() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "nop dword ptr [rax + 0x64616568]",
            options(nomem, nostack, preserves_flags)
        );
    };
}
