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

/// Compares what is written to it with the stream.
pub struct Checker {
    block: Vec<u8>,
    length: usize,
    wrong: Option<usize>,
}

impl Checker {
    /// At the stream's beginning.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it fills a block")]
    pub fn new() -> Self {
        Self {
            block: noise(),
            length: 0,
            wrong: None,
        }
    }

    /// How many bytes came.
    ///
    /// # Errors
    /// The offset of the first block that differs from the stream's.
    pub fn finish(self) -> Result<usize, usize> {
        self.wrong.map_or(Ok(self.length), Err)
    }
}

impl Write for Checker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let within = self.length % BLOCK;
        let size = bytes.len().min(BLOCK - within);
        number_block(&mut self.block, (self.length / BLOCK) as u64);
        if self.wrong.is_none() && bytes[..size] != self.block[within..within + size] {
            self.wrong = Some(self.length - within);
        }
        self.length += size;
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

    fn check(bytes: &[u8]) -> Result<usize, usize> {
        let mut checker = Checker::new();
        for piece in bytes.chunks(1000) {
            checker.write_all(piece).unwrap();
        }
        checker.finish()
    }

    #[test]
    fn damage_is_seen() {
        let mut stream = Vec::new();
        write(&mut stream, 3 * BLOCK + 100).unwrap();
        assert_eq!(check(&stream), Ok(3 * BLOCK + 100));

        let mut swapped = stream[BLOCK..2 * BLOCK].to_vec();
        swapped.extend_from_slice(&stream[..BLOCK]);
        assert_eq!(check(&swapped), Err(0));

        let mut lost = stream.clone();
        lost.drain(BLOCK + 10..BLOCK + 20);
        assert_eq!(check(&lost), Err(BLOCK));
    }
}
