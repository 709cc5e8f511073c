//! VDI, the format of VirtualBox, version 1.1. Little-endian.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::FormatError;
use super::block_table::{BlockTable, field, read_entries};

const HEADER: usize = 512;
const MARK: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
/// Never written.
const ABSENT: u32 = u32::MAX;
/// Written once, and discarded.
const DISCARDED: u32 = u32::MAX - 1;

/// Opens a dynamic or static disk.
pub fn open(file: File) -> Result<BlockTable, FormatError> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let number = |offset| u32::from_le_bytes(field(&header, offset));
    if number(0x40) != MARK {
        return Err(FormatError::Mark);
    }
    if number(0x44) != VERSION {
        return Err(FormatError::Unsupported("is not of version 1.1"));
    }
    if !matches!(number(0x4c), 1 | 2) || field::<16>(&header, 0x1b8) != [0; 16] {
        return Err(FormatError::Unsupported("holds the differences to another image"));
    }
    if number(0x17c) != 0 {
        return Err(FormatError::Unsupported("has data of its own in each block"));
    }
    let size = u64::from_le_bytes(field(&header, 0x170));
    let block_size = u64::from(number(0x178));
    let count = BlockTable::count(size, block_size)?;
    if u64::from(number(0x180)) < count as u64 {
        return Err(FormatError::Damaged("its table does not fit its size"));
    }
    let data = u64::from(number(0x158));
    let blocks = read_entries(&file, number(0x154).into(), count)?
        .into_iter()
        .map(|entry| match u32::from_le_bytes(entry) {
            ABSENT | DISCARDED => None,
            block => Some(data + u64::from(block) * block_size),
        })
        .collect();
    BlockTable::new(file, size, block_size, blocks)
}
