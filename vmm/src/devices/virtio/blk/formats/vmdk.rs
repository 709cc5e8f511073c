//! VMDK, the format of VMware ("Virtual Disk Format 5.0", VMware, 2011). Little-endian.
//!
//! A disk in one sparse file is read here; a description with flat extents, by the library that reads qcow2.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imago::file::File as Storage;
use imago::format::gate::ImplicitOpenGate;
use imago::vmdk::Vmdk;
use imago::{FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use super::block_table::{BlockTable, field, read_entries};
use super::{FormatError, ReadDisk};
use crate::resources::{ImageFiles, Referred};

const HEADER: usize = 512;
const MARK: &[u8; 4] = b"KDMV";
const SECTOR: u64 = 512;
/// The header's flags that change where data are.
const SPARE_DIRECTORY: u32 = 1 << 1;
const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// Where the embedded description would have to end at the latest.
const LONGEST_DESCRIPTION: u64 = 1 << 20;

/// Opens a disk in one sparse file, or a description with flat extents.
pub fn open(files: ImageFiles) -> Result<Box<dyn ReadDisk>, FormatError> {
    let mut mark = [0; MARK.len()];
    files.file.read_exact_at(&mut mark, 0)?;
    if &mark == MARK {
        Ok(Box::new(sparse(files.file)?))
    } else {
        described(files)
    }
}

fn sparse(file: File) -> Result<BlockTable, FormatError> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let number = |offset| u32::from_le_bytes(field(&header, offset));
    let long = |offset| u64::from_le_bytes(field(&header, offset));
    let flags = number(8);
    if flags & (COMPRESSED | MARKERS) != 0 {
        return Err(FormatError::Unsupported("is stream-optimised"));
    }
    refuse_parent(&file, long(28), long(36))?;
    let damaged = || FormatError::Damaged("a number of its header is too large");
    let size = long(12).checked_mul(SECTOR).ok_or_else(damaged)?;
    let grain_size = long(20).checked_mul(SECTOR).ok_or_else(damaged)?;
    let count = BlockTable::count(size, grain_size)?;
    let table_length = number(44) as usize;
    if !(1..=4096).contains(&table_length) {
        return Err(FormatError::Damaged("the length of its tables makes no sense"));
    }
    let directory = long(if flags & SPARE_DIRECTORY != 0 { 48 } else { 56 });
    let directory = directory.checked_mul(SECTOR).ok_or_else(damaged)?;
    let has_zeroed = flags & ZEROED_GRAINS != 0;

    let mut grains = Vec::new();
    for table in read_entries(&file, directory, count.div_ceil(table_length))? {
        let here = table_length.min(count - grains.len());
        match u32::from_le_bytes(table) {
            0 => grains.extend(std::iter::repeat_n(None, here)),
            table => {
                let entries = read_entries(&file, u64::from(table) * SECTOR, here)?;
                grains.extend(entries.into_iter().map(|entry| match u32::from_le_bytes(entry) {
                    0 => None,
                    1 if has_zeroed => None,
                    sector => Some(u64::from(sector) * SECTOR),
                }));
            }
        }
    }
    BlockTable::new(file, size, grain_size, grains)
}

/// The description in the file says whether what it does not hold is in another image.
fn refuse_parent(file: &File, sector: u64, sectors: u64) -> Result<(), FormatError> {
    let damaged = || FormatError::Damaged("its description does not fit");
    let start = sector.checked_mul(SECTOR).ok_or_else(damaged)?;
    let length = sectors
        .checked_mul(SECTOR)
        .filter(|length| *length <= LONGEST_DESCRIPTION);
    let mut text = vec![0; usize::try_from(length.ok_or_else(damaged)?).map_err(|_| damaged())?];
    file.read_exact_at(&mut text, start)?;
    let text = String::from_utf8_lossy(&text);
    let mut parents = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("parentCID="));
    if parents.any(|parent| !parent.trim().eq_ignore_ascii_case("ffffffff")) {
        return Err(FormatError::Unsupported("holds the differences to another image"));
    }
    Ok(())
}

fn described(files: ImageFiles) -> Result<Box<dyn ReadDisk>, FormatError> {
    // Only what the names of extents are resolved against.
    let options = StorageOpenOptions::new().filename("/description");
    let description = Storage::from_open_file(files.file, options)?;
    let disk = Vmdk::<Storage, FormatAccess<Storage>>::builder(description).open(Extents(files.referred))?;
    Ok(Box::new(FormatAccess::new(disk)))
}

/// Gives out the extents that the VMM was given, and nothing else.
struct Extents(Vec<Referred>);

impl ImplicitOpenGate<Storage> for Extents {
    fn open_format<F: FormatDriverBuilder<Storage>>(&mut self, _: F) -> io::Result<FormatAccess<Storage>> {
        Err(io::Error::other("it refers to another image"))
    }

    fn open_storage(&mut self, wanted: StorageOpenOptions) -> io::Result<Storage> {
        let extent = self
            .0
            .iter()
            .find(|extent| wanted.get_filename() == Some(&Path::new("/").join(&extent.name)));
        match extent {
            Some(extent) => extent.file.try_clone()?.try_into(),
            None => Err(io::Error::other("an extent was not given to the VMM")),
        }
    }
}
