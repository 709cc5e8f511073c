//! What is in files: reading, writing, holes, mappings.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr;

use rustix::fs::{FallocateFlags, OFlags, copy_file_range, fallocate, fcntl_setfl, sendfile};
use rustix::mm::{MapFlags, MprotectFlags, MsyncFlags, ProtFlags, mmap, mprotect, msync, munmap};

use super::{Failure, Named, Outcome, all, ended};

pub const OPERATIONS: &[Named] = &[
    ("write and read", write_and_read),
    ("write 5 MiB and read them", write_much),
    ("append from two descriptors", append),
    ("start appending later", append_later),
    ("write where one only reads", wrong_way),
    ("truncate and grow", truncate),
    ("truncate by opening", truncate_by_opening),
    ("truncate to nonsense", truncate_nonsense),
    ("write far beyond the end", sparse),
    ("find data and holes", find_holes),
    ("allocate", allocate),
    ("punch a hole, write zeros", punch),
    ("copy a range", copy),
    ("send a file to a file", send),
    ("vectored reads and writes", vectored),
    ("direct reads and writes", direct),
    ("shared mapping", shared_mapping),
    ("private mapping", private_mapping),
    ("a mapping beyond the end", mapping_grows),
    ("write through two descriptors", two_descriptors),
    ("make durable", sync),
    ("a file without a name", unnamed),
];

fn read_write(path: &Path) -> Result<File, Failure> {
    Ok(OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?)
}

fn text(path: &Path) -> Outcome {
    Ok(fs::read_to_string(path)?.replace('\0', "_"))
}

fn write_and_read(folder: &Path) -> Outcome {
    let mut file = read_write(&folder.join("file"))?;
    file.write_all(b"hello world")?;
    file.seek(SeekFrom::Start(6))?;
    let mut data = String::new();
    file.read_to_string(&mut data)?;
    let at_the_end = file.read(&mut [0; 10])?;
    all([
        data,
        at_the_end.to_string(),
        file.seek(SeekFrom::End(-3))?.to_string(),
    ])
}

fn write_much(folder: &Path) -> Outcome {
    let pattern: Vec<u8> = (0..5 << 20)
        .map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(folder.join("file"), &pattern)?;
    Ok((fs::read(folder.join("file"))? == pattern).to_string())
}

fn append(folder: &Path) -> Outcome {
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(folder.join("file"))
    };
    let (mut one, mut two) = (open()?, open()?);
    one.write_all(b"1")?;
    two.write_all(b"2")?;
    one.write_all(b"3")?;
    // On Linux, an offset does not count when appending.
    one.write_all_at(b"4", 0)?;
    text(&folder.join("file"))
}

fn append_later(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "abc")?;
    let mut file = read_write(&folder.join("file"))?;
    fcntl_setfl(&file, OFlags::APPEND)?;
    file.write_all(b"d")?;
    fcntl_setfl(&file, OFlags::empty())?;
    file.write_all_at(b"X", 0)?;
    text(&folder.join("file"))
}

fn wrong_way(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "abc")?;
    let read = File::open(folder.join("file"))?;
    let write = OpenOptions::new().write(true).open(folder.join("file"))?;
    all([
        ended(read.write_at(b"x", 0)),
        ended(read.set_len(0)),
        ended(write.read_at(&mut [0], 0)),
        ended(File::open(folder)?.read_at(&mut [0], 0)),
    ])
}

fn truncate(folder: &Path) -> Outcome {
    let file = read_write(&folder.join("file"))?;
    file.write_all_at(b"0123456789", 0)?;
    file.set_len(4)?;
    file.set_len(8)?;
    let by_path = rustix::fs::openat(
        rustix::fs::CWD,
        folder.join("file"),
        OFlags::RDWR,
        rustix::fs::Mode::empty(),
    )?;
    let seen = text(&folder.join("file"))?;
    rustix::fs::ftruncate(by_path, 2)?;
    all([
        seen,
        text(&folder.join("file"))?,
        file.metadata()?.len().to_string(),
    ])
}

fn truncate_by_opening(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "data")?;
    let reader = File::open(folder.join("file"))?;
    File::create(folder.join("file"))?;
    all([
        reader.read_at(&mut [0; 4], 0)?.to_string(),
        reader.metadata()?.len().to_string(),
    ])
}

fn truncate_nonsense(folder: &Path) -> Outcome {
    let file = read_write(&folder.join("file"))?;
    // SAFETY: numbers only.
    let negative = unsafe { libc::ftruncate(std::os::fd::AsRawFd::as_raw_fd(&file), -1) };
    let error = std::io::Error::last_os_error();
    all([negative.to_string(), Failure::from(error).to_string()])
}

fn sparse(folder: &Path) -> Outcome {
    let file = read_write(&folder.join("file"))?;
    file.write_all_at(b"x", 100 << 20)?;
    let status = file.metadata()?;
    let mut middle = [1; 3];
    file.read_exact_at(&mut middle, 50 << 20)?;
    Ok(format!("{} {} {middle:?}", status.len(), status.blocks() < 1000))
}

fn find_holes(folder: &Path) -> Outcome {
    let file = read_write(&folder.join("file"))?;
    file.write_all_at(&[1; 4096], 1 << 20)?;
    file.set_len(2 << 20)?;
    let seek = |position| {
        rustix::fs::seek(&file, position)
            .map_or_else(|error| Failure::from(error).to_string(), |at| at.to_string())
    };
    use rustix::fs::SeekFrom::{Data, Hole};
    all([
        seek(Data(0)),
        seek(Hole(0)),
        seek(Hole(1 << 20)),
        seek(Data((1 << 20) + 4096)),
        seek(Data(4 << 20)),
    ])
}

fn allocate(folder: &Path) -> Outcome {
    let file = read_write(&folder.join("file"))?;
    fallocate(&file, FallocateFlags::empty(), 0, 10_000)?;
    let grown = file.metadata()?.len();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 100_000)?;
    all([
        grown.to_string(),
        file.metadata()?.len().to_string(),
        ended(fallocate(&file, FallocateFlags::empty(), 0, 0)),
        ended(fallocate(
            &File::open(folder.join("file"))?,
            FallocateFlags::empty(),
            0,
            1,
        )),
        ended(fallocate(&file, FallocateFlags::PUNCH_HOLE, 0, 1)),
    ])
}

fn punch(folder: &Path) -> Outcome {
    let file = read_write(&folder.join("file"))?;
    file.write_all_at(&[b'x'; 12], 0)?;
    // What has been read is in the page cache.
    text(&folder.join("file"))?;
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        2,
        3,
    )?;
    let zeroed = ended(fallocate(&file, FallocateFlags::ZERO_RANGE, 8, 6));
    all([zeroed, text(&folder.join("file"))?])
}

fn copy(folder: &Path) -> Outcome {
    fs::write(folder.join("from"), "0123456789")?;
    fs::write(folder.join("to"), "abcdefghij")?;
    text(&folder.join("to"))?;
    let (from, to) = (File::open(folder.join("from"))?, read_write(&folder.join("to"))?);
    let copied = copy_file_range(&from, Some(&mut 2), &to, Some(&mut 8), 5)?;
    let at_the_end = copy_file_range(&from, Some(&mut 20), &to, Some(&mut 0), 5)?;
    let overlapping = copy_file_range(&to, Some(&mut 0), &to, Some(&mut 2), 5);
    all([
        copied.to_string(),
        at_the_end.to_string(),
        text(&folder.join("to"))?,
        ended(overlapping),
    ])
}

fn send(folder: &Path) -> Outcome {
    fs::write(folder.join("from"), vec![7; 300_000])?;
    let (from, to) = (File::open(folder.join("from"))?, File::create(folder.join("to"))?);
    let mut sent = 0;
    while sent < 300_000 {
        match sendfile(&to, &from, None, 300_000)? {
            0 => break,
            count => sent += count,
        }
    }
    all([
        sent.to_string(),
        (fs::read(folder.join("to"))? == vec![7; 300_000]).to_string(),
    ])
}

fn vectored(folder: &Path) -> Outcome {
    use std::io::{IoSlice, IoSliceMut};
    let mut file = read_write(&folder.join("file"))?;
    let written = file.write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")])?;
    file.rewind()?;
    let (mut one, mut two) = ([0; 3], [0; 10]);
    let read = file.read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)])?;
    Ok(format!("{written} {read} {one:?} {:?}", &two[..2]))
}

fn direct(folder: &Path) -> Outcome {
    #[repr(align(4096))]
    struct Page([u8; 8192]);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(folder.join("file"));
    let file = match file {
        Ok(file) => file,
        Err(error) => return all([Failure::from(error).to_string()]),
    };
    let mut page = Page([3; 8192]);
    let written = file.write_at(&page.0, 4096)?;
    let read = file.read_at(&mut page.0, 0)?;
    let sums = page
        .0
        .chunks(4096)
        .map(|half| half.iter().map(|&byte| u32::from(byte)).sum::<u32>());
    let sums: Vec<_> = sums.collect();
    Ok(format!(
        "{written} {read} {sums:?} {}",
        fs::read(folder.join("file"))?.len()
    ))
}

/// A mapping of the first page of a file.
struct Mapping(*mut std::ffi::c_void);

impl Mapping {
    const LENGTH: usize = 4096;

    fn new(file: &File, flags: MapFlags) -> Result<Self, Failure> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, at an address of the kernel's choice.
        Ok(Mapping(unsafe {
            mmap(ptr::null_mut(), Self::LENGTH, access, flags, file, 0)?
        }))
    }

    fn get(&self, index: usize) -> u8 {
        assert!(index < Self::LENGTH);
        // SAFETY: inside the mapping, which lives as long as `self`; the file is longer than the index.
        unsafe { ptr::read_volatile(self.0.cast::<u8>().add(index)) }
    }

    fn set(&self, index: usize, value: u8) {
        assert!(index < Self::LENGTH);
        // SAFETY: as for reading.
        unsafe { ptr::write_volatile(self.0.cast::<u8>().add(index), value) }
    }

    fn sync(&self) -> Result<(), Failure> {
        // SAFETY: the whole mapping.
        unsafe { msync(self.0, Self::LENGTH, MsyncFlags::SYNC)? };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nobody else uses.
        unsafe { munmap(self.0, Self::LENGTH) }.expect("a mapping can be taken away");
    }
}

fn shared_mapping(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "0123456789")?;
    let file = read_write(&folder.join("file"))?;
    let (one, two) = (
        Mapping::new(&file, MapFlags::SHARED)?,
        Mapping::new(&file, MapFlags::SHARED)?,
    );
    one.set(0, b'm');
    let seen = char::from(two.get(0)).to_string();
    file.write_all_at(b"w", 1)?;
    let written = char::from(one.get(1)).to_string();
    one.sync()?;
    drop((one, two));
    let read_only = ended(Mapping::new(&File::open(folder.join("file"))?, MapFlags::SHARED).map(drop));
    all([seen, written, text(&folder.join("file"))?, read_only])
}

fn private_mapping(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "0123456789")?;
    let mapping = Mapping::new(&File::open(folder.join("file"))?, MapFlags::PRIVATE)?;
    mapping.set(0, b'm');
    // SAFETY: the whole mapping, which is used for reading only from here on.
    unsafe { mprotect(mapping.0, Mapping::LENGTH, MprotectFlags::READ) }?;
    all([
        char::from(mapping.get(0)).to_string(),
        char::from(mapping.get(5)).to_string(),
        text(&folder.join("file"))?,
    ])
}

fn mapping_grows(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "x")?;
    let file = read_write(&folder.join("file"))?;
    let mapping = Mapping::new(&file, MapFlags::SHARED)?;
    let beyond = mapping.get(100);
    file.write_all_at(b"y", 100)?;
    Ok(format!("{beyond} {}", mapping.get(100)))
}

fn two_descriptors(folder: &Path) -> Outcome {
    let one = read_write(&folder.join("file"))?;
    let two = read_write(&folder.join("file"))?;
    let mut seen = String::new();
    for round in 0..5u8 {
        one.write_all_at(&[b'a' + round], round.into())?;
        let mut byte = [0];
        two.read_exact_at(&mut byte, round.into())?;
        seen.push(byte[0].into());
    }
    Ok(seen)
}

fn sync(folder: &Path) -> Outcome {
    let file = read_write(&folder.join("file"))?;
    file.write_all_at(b"x", 0)?;
    all([
        ended(file.sync_all()),
        ended(file.sync_data()),
        ended(File::open(folder)?.sync_all()),
        ended(rustix::fs::syncfs(&file)),
    ])
}

fn unnamed(folder: &Path) -> Outcome {
    use std::os::fd::AsRawFd;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o640)
        .open(folder)?;
    file.write_all_at(b"secret", 0)?;
    let links = file.metadata()?.nlink();
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let follow = rustix::fs::AtFlags::SYMLINK_FOLLOW;
    rustix::fs::linkat(
        rustix::fs::CWD,
        own,
        rustix::fs::CWD,
        folder.join("named"),
        follow,
    )?;
    all([
        links.to_string(),
        super::facts(&folder.join("named"))?,
        text(&folder.join("named"))?,
    ])
}
