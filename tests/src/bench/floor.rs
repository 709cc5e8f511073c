//! The smallest guest: it prints a line on the serial port and halts. What it takes to get that far is the VMM's own.

use crate::pvh::{self, ADDRESS};

/// What it prints.
pub const TEXT: &str = "FLOOR";

/// Code that means the same in 32-bit and 64-bit mode: `mov esi, text; mov edx, 0x3f8; next: lodsb; test al, al;
/// jz done; out dx, al; jmp next; done: cli; stop: hlt; jmp stop`, and the text behind it.
fn code() -> Vec<u8> {
    const LENGTH: u32 = 22;
    let mut code = vec![0xbe];
    code.extend((ADDRESS + LENGTH).to_le_bytes());
    code.push(0xba);
    code.extend(0x3f8_u32.to_le_bytes());
    code.extend([
        0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xfa, 0xf4, 0xeb, 0xfd,
    ]);
    code.extend(TEXT.as_bytes());
    code.extend(b"\n\0");
    code
}

/// The kernel with that code.
pub fn elf() -> Vec<u8> {
    pvh::elf(&code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_where_the_code_looks_for_it() {
        let code = code();
        let address = u32::from_le_bytes(code[1..5].try_into().unwrap());
        let offset = (address - ADDRESS) as usize;
        assert_eq!(&code[offset..], format!("{TEXT}\n\0").as_bytes());
    }
}
