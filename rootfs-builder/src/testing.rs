//! Executables for the tests of this crate.

/// A static x86-64 ELF executable of `size` bytes, at least 120: header, one loadable segment, and then a pattern.
pub(crate) fn executable(size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, EV_CURRENT
    bytes.extend(0x40_0078_u64.to_le_bytes()); // entry
    bytes.extend(64_u64.to_le_bytes()); // program headers
    bytes.extend([0; 12]); // no section headers, no flags
    bytes.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // sizes and numbers of headers
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
    for value in [0, 0x40_0000, 0x40_0000, size as u64, size as u64, 4096] {
        bytes.extend(value.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    bytes.extend((bytes.len()..size).map(|at| (at % 251) as u8));
    bytes
}
