//! The file in which a caller finds the pid of a container's stand-in.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The pid could not be written.
#[derive(Debug, thiserror::Error)]
#[error("--pid-file {}: {source}", file.display())]
pub struct PidFileError {
    file: PathBuf,
    source: io::Error,
}

/// Writes the pid, without a line end, to a hidden file beside `file` that then gets its name: whoever waits for the file
/// finds it whole.
///
/// # Errors
/// The file system's.
pub fn write(file: &Path, pid: i32) -> Result<(), PidFileError> {
    let write = || -> io::Result<()> {
        let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        let temporary = file.with_file_name(hidden);
        File::create(&temporary)?.write_all(pid.to_string().as_bytes())?;
        fs::rename(&temporary, file)
    };
    write().map_err(|source| PidFileError {
        file: file.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_has_the_number_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("pid");
        write(&file, 42).expect("writable");
        assert_eq!(fs::read(&file).expect("readable"), b"42");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = write(Path::new("/nonexistent/pid"), 42).expect_err("no folder");
        assert_eq!(
            error.to_string(),
            "--pid-file /nonexistent/pid: No such file or directory (os error 2)"
        );
    }
}
