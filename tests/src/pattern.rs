//! A stream of bytes in which loss, repetition and disorder show.

use std::io::{self, Write};

/// The stream is made of blocks of so many bytes: noise, the same in each, with the block's number in its first
/// eight bytes.
pub const BLOCK: usize = 1 << 16;

/// Writes the first `length` bytes of the stream.
///
/// # Errors
/// Those of the writer.
pub fn write(to: &mut impl Write, length: usize) -> io::Result<()> {
    let mut block = noise();
    let mut left = length;
    for number in 0u64.. {
        if left == 0 {
            return Ok(());
        }
        let size = left.min(BLOCK);
        number_block(&mut block, number);
        to.write_all(&block[..size])?;
        left -= size;
    }
    Ok(())
}

/// Says where `bytes` stop being the stream's first bytes.
///
/// # Errors
/// The offset of the first block that differs.
pub fn check(bytes: &[u8]) -> Result<(), usize> {
    let mut expected = noise();
    for (number, block) in (0u64..).zip(bytes.chunks(BLOCK)) {
        number_block(&mut expected, number);
        if block != &expected[..block.len()] {
            return Err(usize::try_from(number).unwrap_or(usize::MAX) * BLOCK);
        }
    }
    Ok(())
}

fn number_block(block: &mut [u8], number: u64) {
    block[..8].copy_from_slice(&number.to_le_bytes());
}

/// Marsaglia's xorshift64.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_seen() {
        let mut stream = Vec::new();
        write(&mut stream, 3 * BLOCK + 100).unwrap();
        assert_eq!(stream.len(), 3 * BLOCK + 100);
        assert_eq!(check(&stream), Ok(()));

        let mut swapped = stream[BLOCK..2 * BLOCK].to_vec();
        swapped.extend_from_slice(&stream[..BLOCK]);
        assert_eq!(check(&swapped), Err(0));

        let mut lost = stream.clone();
        lost.drain(BLOCK + 10..BLOCK + 20);
        assert_eq!(check(&lost), Err(BLOCK));
    }
}
