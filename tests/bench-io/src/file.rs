//! Reading and writing blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::{Blocks, time};

const MIB: usize = 1 << 20;

/// What reading and writing past the page cache wants buffers to be aligned to, bytes.
const ALIGNMENT: usize = 4096;

/// A stride that no power of two divides, and that leaves no order: the golden ratio of 2^32.
const STRIDE: u64 = 2_654_435_761;

/// Makes a file of that size.
pub fn make(path: &Path, mib: u32, sparse: bool) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::create(path)?;
    let size = u64::from(mib) * MIB as u64;
    if sparse {
        return file.set_len(size);
    }
    let content: Vec<u8> = (0..=u8::MAX).cycle().take(MIB).collect();
    (0..size)
        .step_by(MIB)
        .try_for_each(|offset| file.write_all_at(&content, offset))
}

/// How long it takes to read blocks.
pub fn read(blocks: &Blocks) -> io::Result<Duration> {
    let file = File::options()
        .read(true)
        .custom_flags(flags(blocks))
        .open(&blocks.path)?;
    let mut buffer = Buffer::new(blocks.block.max(MIB));
    if blocks.cached {
        let mut offset = 0;
        while let length @ 1.. = file.read_at(buffer.of(MIB), offset)? {
            offset += length as u64;
        }
    }
    let buffer = buffer.of(blocks.block);
    time(|| {
        blocks
            .offsets()
            .try_for_each(|offset| file.read_exact_at(buffer, offset))
    })
}

/// How long it takes to write blocks, to a file that may not be there yet.
pub fn write(blocks: &Blocks) -> io::Result<Duration> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags(blocks))
        .open(&blocks.path)?;
    let mut buffer = Buffer::new(blocks.block);
    let buffer = buffer.of(blocks.block);
    buffer.fill(b'x');
    time(|| {
        blocks
            .offsets()
            .try_for_each(|offset| file.write_all_at(buffer, offset))
    })
}

fn flags(blocks: &Blocks) -> i32 {
    if blocks.direct { libc::O_DIRECT } else { 0 }
}

impl Blocks {
    /// Where each is. In no order, each is there once if they are out of a power of two.
    fn offsets(&self) -> impl Iterator<Item = u64> {
        let size = self.block as u64;
        let among = self.among;
        (0..self.count).map(move |number| {
            size * match among {
                Some(blocks) => number * STRIDE % blocks,
                None => number,
            }
        })
    }
}

/// Aligned memory.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(size: usize) -> Self {
        let memory = vec![0; size + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }

    fn of(&mut self, size: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + size]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn blocks(path: &Path, count: u64, among: Option<u64>) -> Blocks {
        Blocks {
            path: path.into(),
            block: ALIGNMENT,
            count,
            among,
            direct: false,
            cached: true,
        }
    }

    #[test]
    fn blocks_in_no_order_are_each_there_once_and_inside() {
        let path = Path::new("");
        assert!(blocks(path, 3, None).offsets().eq([0, 4096, 8192]));
        let offsets: Vec<u64> = blocks(path, 256, Some(1024)).offsets().collect();
        assert!(
            offsets
                .iter()
                .all(|offset| *offset < 1024 * 4096 && offset % 4096 == 0)
        );
        assert!(offsets.windows(2).all(|pair| pair[1] != pair[0] + 4096));
        assert_eq!(offsets.into_iter().collect::<BTreeSet<_>>().len(), 256);
    }

    #[test]
    fn what_is_made_can_be_read_and_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("below/file");
        make(&path, 2, false).expect("made");
        assert_eq!(path.metadata().expect("there").len(), 2 << 20);
        read(&blocks(&path, 512, Some(512))).expect("read");
        read(&blocks(&path, 513, None)).expect_err("it ends before that");
        write(&blocks(&path, 513, None)).expect("written");
        assert!(std::fs::read(&path).expect("there") == [b'x'].repeat(513 * 4096));
        make(&path, 2048, true).expect("made");
        assert_eq!(path.metadata().expect("there").len(), 2 << 30);
    }
}
