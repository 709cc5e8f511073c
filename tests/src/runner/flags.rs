//! Recognises, by the registers that a crashed kernel prints, an emulated processor that went wrong.
//!
//! QEMU's emulation computes a processor's flags when they are asked for, from operands that it keeps. Before QEMU 9, a
//! memory access that faults in the middle of an instruction could find those operands replaced already, and take an
//! operand for the flags. In a nested guest every first touch of a page is such a fault; one boot in some thousands then
//! goes on with flags that mean virtual-8086 mode or an I/O privilege, and dies of a general protection fault anywhere.

/// Bits of RFLAGS that are 0 on every x86 processor in long mode: those reserved (AMD64 Architecture Programmer's Manual,
/// volume 2, section 3.1.6), and virtual-8086 mode (17).
const NEVER_SET: u32 = 1 << 3 | 1 << 5 | 1 << 15 | 1 << 17 | 0x3ff << 22;

/// The flags in a kernel's register dump that no processor can have, if there are such.
pub fn impossible(output: &[u8]) -> Option<u32> {
    String::from_utf8_lossy(output)
        .split("EFLAGS: ")
        .skip(1)
        .filter_map(|rest| u32::from_str_radix(rest.get(..8)?, 16).ok())
        .find(|flags| flags & NEVER_SET != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_kernels_own_crash_are_possible() {
        assert_eq!(impossible(b"RSP: 0018:ffffc9000000bdd8 EFLAGS: 00010246\n"), None);
        assert_eq!(impossible(b"EFLAGS: 00000ed7 and then EFLAGS: 00250206\n"), None);
        assert_eq!(impossible(b"nothing, EFLAGS: or so"), None);
        assert_eq!(impossible(b"EFLAGS: "), None);
    }

    #[test]
    fn flags_with_bits_that_nothing_sets_are_not() {
        let dump = b"  guest: RIP: 0010:f+0x2e/0xe0\n  guest: RSP: 0018:0 EFLAGS: 02369202\n";
        assert_eq!(impossible(dump), Some(0x0236_9202));
        assert_eq!(impossible(b"EFLAGS: 00000002 EFLAGS: 00008002"), Some(0x8002));
    }
}
