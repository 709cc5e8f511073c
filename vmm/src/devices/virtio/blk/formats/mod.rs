//! Formats of images that are not raw, for reading.
//!
//! An image is hostile: its maker may want to read what it does not hold, or to have the reader run out of memory. So
//! what it refers to is opened by the runtime, which checks where it lies; tables have a largest size; every offset is
//! checked by the read that uses it.

mod block_table;
mod qcow2;
mod vdi;
mod vhd;
mod vmdk;

use std::io;

use crate::config::ImageFormat;
use crate::resources::ImageFiles;

/// The disk that an image holds.
pub trait ReadDisk: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` with what is at `offset`, which with the buffer's length lies within the size.
    ///
    /// # Errors
    /// The host's, and that the image is not whole.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// An image that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It does not begin, or end, as images of the format do.
    #[error("it has not the mark of its format")]
    Mark,
    /// A field has a value that makes no sense.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// A feature of the format that is not supported.
    #[error("it {0}, which is not supported: convert it with `qemu-img convert`")]
    Unsupported(&'static str),
    /// What is behind the reading failed, or the library that reads it says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opens an image that is not raw.
///
/// # Errors
/// What keeps it from being read.
pub fn open(files: ImageFiles) -> Result<Box<dyn ReadDisk>, FormatError> {
    Ok(match files.format {
        ImageFormat::Raw => return Err(FormatError::Mark),
        ImageFormat::Qcow2 => qcow2::open(files)?,
        ImageFormat::Vhd => Box::new(vhd::open(files.file)?),
        ImageFormat::Vmdk => vmdk::open(files)?,
        ImageFormat::Vdi => Box::new(vdi::open(files.file)?),
    })
}

#[cfg(test)]
mod tests;
