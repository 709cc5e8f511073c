//! qcow2, the format of QEMU, with backing images (docs/interop/qcow2.txt in QEMU's source).

use std::fs::File;
use std::io;

use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

use super::{FormatError, ReadDisk};
use crate::config::ImageFormat;
use crate::resources::ImageFiles;

type Disk = FormatAccess<Storage>;

/// Opens an image with its backing images: the first is its own, the second the first's, and so on.
pub fn open(files: ImageFiles) -> Result<Box<dyn ReadDisk>, FormatError> {
    let mut backing = None;
    for referred in files.referred.into_iter().rev() {
        backing = Some(open_one(referred.file, referred.format, backing)?);
    }
    Ok(Box::new(open_one(files.file, ImageFormat::Qcow2, backing)?))
}

fn open_one(file: File, format: ImageFormat, backing: Option<Disk>) -> Result<Disk, FormatError> {
    let storage = Storage::try_from(file)?;
    match format {
        ImageFormat::Raw => {
            let disk = Raw::builder(storage).open(DenyImplicitOpenGate::default())?;
            Ok(FormatAccess::new(disk))
        }
        ImageFormat::Qcow2 => {
            let disk = Qcow2::builder(storage)
                .backing(backing)
                .data_file(None)
                .open(DenyImplicitOpenGate::default())?;
            if disk.requires_external_data_file() {
                return Err(FormatError::Unsupported("has its data in another file"));
            }
            Ok(FormatAccess::new(disk))
        }
        _ => Err(FormatError::Unsupported(
            "is based on an image that is neither raw nor qcow2",
        )),
    }
}

impl ReadDisk for Disk {
    fn size(&self) -> u64 {
        FormatAccess::size(self)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(buffer, offset)
    }
}
