//! The image behind a device: a file or block device of the host.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fdatasync};
use rustix::io::Errno;
use rustix::io::pwrite;

use super::formats::{self, FormatError, ReadDisk};
use super::request::{Extent, Range, SECTOR};
use crate::config::ImageFormat;
use crate::devices::virtio::buffers::{Input, Output, WRITTEN_AT_ONCE};
use crate::resources::ImageFiles;

/// How much is decoded at a time of a format that is not raw.
const CHUNK: usize = 128 << 10;

/// An open image. Requests come from one thread; the capacity is also read from others.
pub struct Image {
    contents: Contents,
    sectors: u64,
    read_only: bool,
}

/// Where the disk's contents are.
enum Contents {
    /// In the file, as they are.
    Raw(Mutex<File>),
    /// In files of another format, which can only be read.
    Encoded(Box<dyn ReadDisk>),
}

/// A file cannot be the image of a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Only regular files and block devices can be.
    #[error("the image is neither a regular file nor a block device")]
    Type,
    /// The descriptor's access mode does not suffice.
    #[error("the image is not open for {0}: open it so, or attach it read-only")]
    Access(&'static str),
    /// Less than one sector.
    #[error("the image is smaller than one sector of 512 bytes")]
    Empty,
    /// A format that can only be read.
    #[error("an image of the format {} cannot be written to: attach it read-only", .0.name())]
    Writable(ImageFormat),
    /// A format's own error.
    #[error("the {} image", .0.name())]
    Format(ImageFormat, #[source] FormatError),
    /// The host's error.
    #[error("cannot look at the image: {0}")]
    Host(#[from] io::Error),
    /// The thread that would serve it.
    #[error("cannot start the disk's thread")]
    Worker(#[source] io::Error),
}

impl Image {
    /// Takes `files` as an image. What is beyond its last whole sector is not visible to the guest.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn open(files: ImageFiles, read_only: bool) -> Result<Self, ImageError> {
        let format = files.format;
        if format == ImageFormat::Raw {
            return Self::raw(files.file, read_only);
        }
        if !read_only {
            return Err(ImageError::Writable(format));
        }
        let disk = formats::open(files).map_err(|error| ImageError::Format(format, error))?;
        let sectors = disk.size() / SECTOR;
        if sectors == 0 {
            return Err(ImageError::Empty);
        }
        Ok(Image {
            contents: Contents::Encoded(disk),
            sectors,
            read_only,
        })
    }

    fn raw(mut file: File, read_only: bool) -> Result<Self, ImageError> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::Type);
        }
        let mode = fcntl_getfl(&file).map_err(io::Error::from)? & (OFlags::ACCMODE | OFlags::PATH);
        match mode {
            OFlags::RDWR => {}
            OFlags::RDONLY if read_only => {}
            OFlags::RDONLY => return Err(ImageError::Access("writing")),
            _ => return Err(ImageError::Access("reading")),
        }
        // A block device has no length in its metadata.
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR;
        if sectors == 0 {
            return Err(ImageError::Empty);
        }
        Ok(Image {
            contents: Contents::Raw(Mutex::new(file)),
            sectors,
            read_only,
        })
    }

    /// The capacity in sectors, at least 1.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the guest may only read it.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills `output` from the image and returns how many bytes of it were filled.
    pub fn read(&self, output: &mut Output<'_>, extent: Extent) -> (u64, io::Result<()>) {
        match &self.contents {
            Contents::Raw(file) => {
                let mut file = lock(file);
                transfer(extent, io::ErrorKind::UnexpectedEof, |length, offset| {
                    output.write_from_at(&mut *file, length, offset)
                })
            }
            Contents::Encoded(disk) => {
                let most = usize::try_from(extent.length).unwrap_or(CHUNK).min(CHUNK);
                let mut chunk = vec![0; most];
                transfer(extent, io::ErrorKind::UnexpectedEof, |length, offset| {
                    let chunk = &mut chunk[..length.min(most)];
                    disk.read_at(chunk, offset)?;
                    output.write_all(chunk)?;
                    Ok(chunk.len())
                })
            }
        }
    }

    /// Writes what is in `input` to the image.
    ///
    /// # Errors
    /// The host's; a part may have been written.
    pub fn write(&self, input: &mut Input<'_>, extent: Extent) -> io::Result<()> {
        let mut file = self.file()?;
        transfer(extent, io::ErrorKind::WriteZero, |length, offset| {
            input.read_to_at(&mut *file, length.min(WRITTEN_AT_ONCE), offset)
        })
        .1
    }

    /// Makes all finished writes durable.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> io::Result<()> {
        match &self.contents {
            Contents::Raw(file) => Ok(fdatasync(&*lock(file))?),
            // Nothing was written.
            Contents::Encoded(_) => Ok(()),
        }
    }

    /// Gives the space of a range back, if the host can: a discard is a hint.
    ///
    /// # Errors
    /// The host's.
    pub fn discard(&self, extent: Extent) -> io::Result<()> {
        match self.allocate(FallocateFlags::PUNCH_HOLE, extent) {
            Err(Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Has a range read as zeros.
    ///
    /// # Errors
    /// The host's; a part may have been zeroed.
    pub fn write_zeroes(&self, range: Range) -> io::Result<()> {
        let how = if range.unmap {
            FallocateFlags::PUNCH_HOLE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match self.allocate(how, range.extent) {
            Err(Errno::OPNOTSUPP) => self.overwrite(range.extent),
            result => Ok(result?),
        }
    }

    fn allocate(&self, how: FallocateFlags, extent: Extent) -> Result<(), Errno> {
        if extent.length == 0 {
            return Ok(());
        }
        fallocate(
            &*self.file()?,
            how | FallocateFlags::KEEP_SIZE,
            extent.offset,
            extent.length,
        )
    }

    fn overwrite(&self, extent: Extent) -> io::Result<()> {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let file = self.file()?;
        transfer(extent, io::ErrorKind::WriteZero, |length, offset| {
            Ok(pwrite(&*file, &ZEROES[..length.min(ZEROES.len())], offset)?)
        })
        .1
    }

    /// The file of a raw image: the others cannot be written to.
    fn file(&self) -> Result<MutexGuard<'_, File>, Errno> {
        match &self.contents {
            Contents::Raw(file) => Ok(lock(file)),
            Contents::Encoded(_) => Err(Errno::ROFS),
        }
    }
}

fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Repeats `step`, which is given a length and an offset and returns how far it got, until the extent is done. Returns
/// how many bytes are done too.
fn transfer(
    extent: Extent,
    end_of_file: io::ErrorKind,
    mut step: impl FnMut(usize, u64) -> io::Result<usize>,
) -> (u64, io::Result<()>) {
    let mut done = 0;
    while done < extent.length {
        let rest = usize::try_from(extent.length - done).unwrap_or(usize::MAX);
        match step(rest, extent.offset + done) {
            Ok(0) => return (done, Err(end_of_file.into())),
            Ok(count) => done += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}
