//! VHD, the format of Virtual PC ("Virtual Hard Disk Image Format Specification", Microsoft, 2006). Big-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::FormatError;
use super::block_table::{BlockTable, field, read_entries};

/// A footer is at the end, and in dynamic disks a copy of it at the start.
const FOOTER: usize = 512;
const FOOTER_MARK: &[u8; 8] = b"conectix";
/// Behind the footer's copy, where that says.
const HEADER: usize = 1024;
const HEADER_MARK: &[u8; 8] = b"cxsparse";
const SECTOR: u64 = 512;
const ABSENT: u32 = u32::MAX;

/// Opens a fixed or dynamic disk.
pub fn open(file: File) -> Result<BlockTable, FormatError> {
    let length = file.metadata()?.len();
    let at = length.checked_sub(FOOTER as u64).ok_or(FormatError::Mark)?;
    let footer: [u8; FOOTER] = read(&file, at)?;
    if !footer.starts_with(FOOTER_MARK) {
        return Err(FormatError::Mark);
    }
    if u32::from_be_bytes(field(&footer, 64)) != checksum(&footer, 64) {
        return Err(FormatError::Damaged("the checksum of its footer is wrong"));
    }
    let size = u64::from_be_bytes(field(&footer, 48));
    match u32::from_be_bytes(field(&footer, 60)) {
        2 if size <= at => BlockTable::new(file, size, size, vec![Some(0)]),
        2 => Err(FormatError::Damaged("it is shorter than its disk")),
        3 => dynamic(file, size, u64::from_be_bytes(field(&footer, 16))),
        4 => Err(FormatError::Unsupported("holds the differences to another image")),
        _ => Err(FormatError::Damaged("its kind of disk is unknown")),
    }
}

fn dynamic(file: File, size: u64, header: u64) -> Result<BlockTable, FormatError> {
    let header: [u8; HEADER] = read(&file, header)?;
    if !header.starts_with(HEADER_MARK) {
        return Err(FormatError::Damaged("it has no header"));
    }
    if u32::from_be_bytes(field(&header, 36)) != checksum(&header, 36) {
        return Err(FormatError::Damaged("the checksum of its header is wrong"));
    }
    let block_size = u64::from(u32::from_be_bytes(field(&header, 32)));
    if !block_size.is_multiple_of(SECTOR) {
        return Err(FormatError::Damaged("its blocks are not whole sectors"));
    }
    let count = BlockTable::count(size, block_size)?;
    if u64::from(u32::from_be_bytes(field(&header, 28))) < count as u64 {
        return Err(FormatError::Damaged("its table does not fit its size"));
    }
    // A bit for each sector says whether it was written; in front of the block, in whole sectors.
    let bitmap = (block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let blocks = read_entries(&file, u64::from_be_bytes(field(&header, 16)), count)?
        .into_iter()
        .map(|entry| match u32::from_be_bytes(entry) {
            ABSENT => None,
            sector => Some(u64::from(sector) * SECTOR + bitmap),
        })
        .collect();
    BlockTable::new(file, size, block_size, blocks)
}

fn read<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// The complement of the sum of all bytes but those of the checksum itself.
pub(super) fn checksum(structure: &[u8], own: usize) -> u32 {
    let others = structure
        .iter()
        .enumerate()
        .filter(|(index, _)| !(own..own + 4).contains(index));
    !others.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}
