//! What VHD, VDI and VMDK have in common: a disk in blocks of one size, and a table that says where in the file each is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{FormatError, ReadDisk};

/// The most blocks that a table can have. Of the smallest usual size, 64 KiB, they are 256 GiB.
const MOST_BLOCKS: u64 = 4 << 20;

/// A disk in blocks.
#[derive(Debug)]
pub struct BlockTable {
    file: File,
    size: u64,
    block_size: u64,
    /// Where each block is in the file; none: it reads as zeros.
    blocks: Vec<Option<u64>>,
}

impl BlockTable {
    /// How many blocks of `block_size` bytes a disk of `size` bytes has.
    ///
    /// # Errors
    /// None or too many.
    pub fn count(size: u64, block_size: u64) -> Result<usize, FormatError> {
        if block_size == 0 || size == 0 {
            return Err(FormatError::Damaged("it has blocks of no size, or none"));
        }
        match size.div_ceil(block_size) {
            count @ ..=MOST_BLOCKS => {
                usize::try_from(count).map_err(|_| FormatError::Damaged("it has too many blocks"))
            }
            _ => Err(FormatError::Unsupported("has more than 4194304 blocks")),
        }
    }

    /// A disk whose blocks are known. There are as many as [`Self::count`] says.
    ///
    /// # Errors
    /// There are not.
    pub fn new(
        file: File,
        size: u64,
        block_size: u64,
        blocks: Vec<Option<u64>>,
    ) -> Result<Self, FormatError> {
        if Self::count(size, block_size)? != blocks.len() {
            return Err(FormatError::Damaged("its table does not fit its size"));
        }
        Ok(Self {
            file,
            size,
            block_size,
            blocks,
        })
    }
}

impl ReadDisk for BlockTable {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let (block, within) = (offset / self.block_size, offset % self.block_size);
            let rest = usize::try_from(self.block_size - within).unwrap_or(usize::MAX);
            let (part, later) = buffer.split_at_mut(rest.min(buffer.len()));
            let place = usize::try_from(block)
                .ok()
                .and_then(|block| self.blocks.get(block))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            match place {
                Some(start) => {
                    let from = start.checked_add(within).ok_or(io::ErrorKind::InvalidData)?;
                    self.file.read_exact_at(part, from)?;
                }
                None => part.fill(0),
            }
            offset += part.len() as u64;
            buffer = later;
        }
        Ok(())
    }
}

/// Reads a table of `count` 32-bit entries.
///
/// # Errors
/// The file ends before the table does.
pub fn read_entries(file: &File, offset: u64, count: usize) -> io::Result<Vec<[u8; 4]>> {
    // Checked first: a small file with a large number in it is not to cost memory.
    let end = offset
        .checked_add(count as u64 * 4)
        .ok_or(io::ErrorKind::InvalidData)?;
    if end > file.metadata()?.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0; count * 4];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.as_chunks().0.to_vec())
}

/// The `N` bytes at `offset` of a header that has been read in full.
pub fn field<const N: usize>(header: &[u8], offset: usize) -> [u8; N] {
    let bytes = header.get(offset..).and_then(|rest| rest.first_chunk());
    *bytes.expect("a field lies in its header")
}
