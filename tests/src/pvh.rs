//! The smallest guest kernels: some code in an ELF with the note that gives Xen's PVH entry point. Linux takes such an ELF
//! for a program as well.

/// Where the code is loaded and entered.
pub const ADDRESS: u32 = 0x10_0000;

/// An ELF with that code.
#[must_use]
pub fn elf(code: &[u8]) -> Vec<u8> {
    // A page, so that Linux can map what follows.
    const HEADERS: u64 = 4096;
    let mut note = Vec::new();
    // Name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY.
    [4_u32, 8, 18]
        .iter()
        .for_each(|word| note.extend(word.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(u64::from(ADDRESS).to_le_bytes());

    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    // Executable, x86-64.
    [2_u16, 62].iter().for_each(|half| elf.extend(half.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    // Entry, program headers, no section headers.
    [u64::from(ADDRESS), 64, 0]
        .iter()
        .for_each(|long| elf.extend(long.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    [64_u16, 56, 2, 64, 0, 0]
        .iter()
        .for_each(|half| elf.extend(half.to_le_bytes()));

    let code_length = code.len() as u64;
    let note_length = note.len() as u64;
    // PT_LOAD, readable, writable and executable; then PT_NOTE.
    program_header(
        &mut elf,
        [1, 7],
        [
            HEADERS,
            ADDRESS.into(),
            ADDRESS.into(),
            code_length,
            code_length,
            HEADERS,
        ],
    );
    program_header(
        &mut elf,
        [4, 4],
        [HEADERS + code_length, 0, 0, note_length, note_length, 4],
    );
    elf.resize(HEADERS as usize, 0);
    elf.extend(code);
    elf.extend(note);
    elf
}

/// Type and flags; then offset, virtual and physical address, sizes in the file and in memory, alignment.
fn program_header(elf: &mut Vec<u8>, kind_and_flags: [u32; 2], fields: [u64; 6]) {
    kind_and_flags
        .iter()
        .for_each(|word| elf.extend(word.to_le_bytes()));
    fields.iter().for_each(|long| elf.extend(long.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_point_to_code_and_note() {
        let elf = elf(b"code");
        let long =
            |at: usize| usize::try_from(u64::from_le_bytes(elf[at..at + 8].try_into().unwrap())).unwrap();
        let (load, note) = (64, 64 + 56);
        assert_eq!(&elf[long(load + 8)..][..long(load + 32)], b"code");
        assert_eq!(&elf[long(note + 8) + 12..][..4], b"Xen\0");
        assert_eq!(long(note + 8) + long(note + 32), elf.len());
    }
}
