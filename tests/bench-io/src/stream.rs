//! Bytes through pipes.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// How much is read and written at once, bytes.
const PIECE: usize = 64 << 10;

/// Writes so much.
pub fn pour(to: &mut impl Write, mib: u32) -> io::Result<()> {
    let piece = [b'x'; PIECE];
    for _ in 0..(u64::from(mib) << 20) / PIECE as u64 {
        to.write_all(&piece)?;
    }
    to.flush()
}

/// Reads to the end. The time runs from the first byte on.
pub fn drain(from: &mut impl Read) -> io::Result<Duration> {
    let mut piece = [0; PIECE];
    let mut start = None;
    while from.read(&mut piece)? > 0 {
        start.get_or_insert_with(Instant::now);
    }
    let start = start.ok_or_else(|| io::Error::other("it ended before the first byte"))?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_poured_is_drained() {
        let mut bytes = Vec::new();
        pour(&mut bytes, 2).expect("written");
        assert_eq!(bytes.len(), 2 << 20);
        drain(&mut bytes.as_slice()).expect("read");
        drain(&mut io::empty()).expect_err("nothing came");
    }
}
