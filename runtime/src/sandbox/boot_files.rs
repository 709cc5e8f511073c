//! What a guest boots, looked at before a VMM is started with it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::HostFile;

const ELF: [&[u8]; 1] = [b"\x7fELF"];
/// A cpio archive of the newc format, or anything compressed by gzip or zstd.
const ARCHIVE: [&[u8]; 3] = [b"070701", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"];
const KERNEL: &str = "an uncompressed kernel (an ELF file, vmlinux)";
const INITRAMFS: &str = "an initramfs (a cpio archive of the newc format)";
/// The longest of the marks.
const MAGIC_LENGTH: usize = 6;

/// Why a file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootFileError {
    /// It cannot be opened.
    #[error("{what} {}: {source}; install it, or say in the configuration file where it is", path.display())]
    Unreadable {
        /// What the file is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has nothing in it.
    #[error("{what} {}: the file is empty", path.display())]
    Empty {
        /// What the file is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{what} {}: not {expected}", path.display())]
    Other {
        /// What the file should be.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The same in more words.
        expected: &'static str,
    },
}

/// Opens a guest kernel.
///
/// # Errors
/// It is not there, or no ELF file.
pub fn open_kernel(path: &Path) -> Result<File, BootFileError> {
    open("kernel", path, &ELF, KERNEL)
}

/// Opens a guest's initial RAM file system.
///
/// # Errors
/// It is not there, or no archive.
pub fn open_initramfs(path: &Path) -> Result<File, BootFileError> {
    open("initramfs", path, &ARCHIVE, INITRAMFS)
}

/// Checks that a file that has been opened is a guest kernel. `field` of `config.json` names it.
///
/// # Errors
/// It is no ELF file.
pub fn check_kernel(field: &'static str, file: HostFile) -> Result<HostFile, BootFileError> {
    check(field, file, &ELF, KERNEL)
}

/// Checks that a file that has been opened is an initial RAM file system. `field` of `config.json` names it.
///
/// # Errors
/// It is no archive.
pub fn check_initramfs(field: &'static str, file: HostFile) -> Result<HostFile, BootFileError> {
    check(field, file, &ARCHIVE, INITRAMFS)
}

fn open(
    what: &'static str,
    path: &Path,
    magics: &[&[u8]],
    expected: &'static str,
) -> Result<File, BootFileError> {
    let path = path.to_owned();
    match File::open(&path) {
        Err(source) => Err(BootFileError::Unreadable { what, path, source }),
        Ok(file) => check(what, HostFile { file, path }, magics, expected).map(|file| file.file),
    }
}

fn check(
    what: &'static str,
    file: HostFile,
    magics: &[&[u8]],
    expected: &'static str,
) -> Result<HostFile, BootFileError> {
    let mut head = [0; MAGIC_LENGTH];
    let path = file.path.clone();
    match file.file.read_at(&mut head, 0) {
        Err(source) => Err(BootFileError::Unreadable { what, path, source }),
        Ok(0) => Err(BootFileError::Empty { what, path }),
        Ok(length) => match head.get(..length) {
            Some(head) if magics.iter().any(|magic| head.starts_with(magic)) => Ok(file),
            _ => Err(BootFileError::Other { what, path, expected }),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = |contents: &[u8]| {
            let path = folder.path().join("file");
            fs::write(&path, contents).expect("writable");
            path
        };
        assert!(open_kernel(&file(b"\x7fELF and so on")).is_ok());
        assert!(open_initramfs(&file(b"070701 and so on")).is_ok());
        assert!(matches!(
            open_kernel(&file(b"")),
            Err(BootFileError::Empty { .. })
        ));
        assert!(matches!(
            open_kernel(&file(b"\x7fEL")),
            Err(BootFileError::Other { .. })
        ));
        assert!(matches!(
            open_initramfs(&file(b"\x7fELF")),
            Err(BootFileError::Other { .. })
        ));
        assert!(matches!(
            open_initramfs(folder.path()),
            Err(BootFileError::Unreadable { .. })
        ));
    }
}
