//! The guest's root as an initramfs: an uncompressed cpio archive in the "newc" format, which the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).

use std::io::{self, BufWriter, Write};
use std::path::Path;

use cpio::newc::{self, ModeFileType};

use crate::agent::Agent;
use crate::output;
use crate::tree::{ENTRIES, Kind};

/// Writes the initramfs to the file `output`, which is replaced once the archive is complete.
///
/// # Errors
/// If the file cannot be written.
pub fn write_file(agent: &Agent, output: &Path) -> io::Result<()> {
    output::replace(output, |file| {
        let mut buffered = BufWriter::new(file);
        write(agent, &mut buffered)?;
        buffered.flush()
    })
}

/// Writes the initramfs to `out`.
///
/// # Errors
/// If `out` cannot be written.
pub fn write(agent: &Agent, out: &mut impl Write) -> io::Result<()> {
    let mut out = Counting { out, written: 0 };
    for (number, entry) in (1..).zip(ENTRIES) {
        let name = match entry.kind {
            Kind::Agent => page_aligned(entry.path, out.written),
            _ => entry.path.to_owned(),
        };
        let header = newc::Builder::new(&name)
            .ino(number)
            .mode(entry.permissions)
            .mtime(0);
        let (header, data) = match entry.kind {
            Kind::Directory => (
                header.set_mode_file_type(ModeFileType::Directory).nlink(2),
                &[][..],
            ),
            Kind::CharacterDevice(major, minor) => {
                let header = header.set_mode_file_type(ModeFileType::Char);
                (header.rdev_major(major).rdev_minor(minor), &[][..])
            }
            Kind::Agent => (header.set_mode_file_type(ModeFileType::Regular), agent.bytes()),
        };
        let size = u32::try_from(data.len()).expect("an agent's size fits in 32 bits");
        let mut file = header.write(&mut out, size);
        file.write_all(data)?;
        file.finish()?;
    }
    newc::trailer(&mut out)?;
    Ok(())
}

/// A name with as many zeros behind it that the data of its file, whose header is written at `at`, begins with a page:
/// then our kernel makes the pages of the archive those of the file, and copies none.
fn page_aligned(name: &str, at: usize) -> String {
    const PAGE: usize = 4096;
    const HEADER: usize = 110;
    const TERMINATOR: usize = 1;
    let end = at + HEADER + name.len() + TERMINATOR;
    let zeros = end.next_multiple_of(PAGE) - end;
    format!("{name}{}", "\0".repeat(zeros))
}

/// Counts what is written.
struct Counting<W> {
    out: W,
    written: usize,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
