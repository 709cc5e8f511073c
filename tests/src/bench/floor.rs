//! The smallest guests: kernels of a few instructions. What they take is the VMM's own.

use crate::pvh::{self, ADDRESS};

/// What the first one prints, on the serial port, before it halts.
pub const TEXT: &str = "FLOOR";

/// How many exits to user space the second one makes.
pub const EXITS: u32 = 5000;

/// A guest that prints a line.
pub fn elf() -> Vec<u8> {
    pvh::elf(&printing())
}

/// A guest that times [`EXITS`] writes to a port where no device is, by its time stamp counter, and prints `took` and
/// the nanoseconds in hexadecimal. In virtual time the counter counts nanoseconds.
pub fn exits() -> Vec<u8> {
    pvh::elf(&timing())
}

/// Code that means the same in 32-bit and 64-bit mode: `mov esi, text; mov edx, 0x3f8; next: lodsb; test al, al;
/// jz done; out dx, al; jmp next; done: cli; stop: hlt; jmp stop`, and the text behind it.
fn printing() -> Vec<u8> {
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

/// `mov ecx, EXITS; rdtsc; mov ebx, eax; next: out 0x80, al; loop next; rdtsc; sub eax, ebx; mov ebx, eax`,
/// then the text as above, and then eight times `rol ebx, 4`, the low digit of which is printed.
fn timing() -> Vec<u8> {
    const TOOK: &[u8] = b"took \0";
    let mut code = vec![0xb9];
    code.extend(EXITS.to_le_bytes());
    code.extend([
        0x0f, 0x31, // rdtsc
        0x89, 0xc3, // mov ebx, eax
        0xe6, 0x80, // next: out 0x80, al
        0xe2, 0xfc, // loop next
        0x0f, 0x31, // rdtsc
        0x29, 0xd8, // sub eax, ebx
        0x89, 0xc3, // mov ebx, eax
        0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
        0xbe, // mov esi, text
    ]);
    let rest = [
        0xac, // letter: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz digits
        0xee, // out dx, al
        0xeb, 0xf8, // jmp letter
        0xb9, 0x08, 0x00, 0x00, 0x00, // digits: mov ecx, 8
        0xc1, 0xc3, 0x04, // digit: rol ebx, 4
        0x88, 0xd8, // mov al, bl
        0x24, 0x0f, // and al, 15
        0x3c, 0x0a, // cmp al, 10
        0x72, 0x02, // jb decimal
        0x04, 0x27, // add al, 'a' - '0' - 10
        0x04, 0x30, // decimal: add al, '0'
        0xee, // out dx, al
        0xe2, 0xee, // loop digit
        0xb0, 0x0a, // mov al, '\n'
        0xee, // out dx, al
        0xfa, // cli
        0xf4, // stop: hlt
        0xeb, 0xfd, // jmp stop
    ];
    let text = ADDRESS as usize + code.len() + 4 + rest.len();
    code.extend(u32::try_from(text).expect("near").to_le_bytes());
    code.extend(rest);
    code.extend(TOOK);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the address in `mov esi` points to.
    fn text(code: &[u8]) -> &[u8] {
        let at = code.iter().position(|byte| *byte == 0xbe).expect("mov esi");
        let address = u32::from_le_bytes(code[at + 1..at + 5].try_into().unwrap());
        &code[(address - ADDRESS) as usize..]
    }

    #[test]
    fn the_text_is_where_the_code_looks_for_it() {
        assert_eq!(text(&printing()), format!("{TEXT}\n\0").as_bytes());
        assert_eq!(text(&timing()), b"took \0");
    }
}
