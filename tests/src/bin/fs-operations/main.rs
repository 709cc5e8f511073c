//! Does some seventy things with files, and says of each how it ended: run in two places, the output tells whether
//! they behave alike. Nothing in the output depends on time, on numbers that a file system gives out, or on the order
//! in which it lists.

mod attributes;
mod contents;
mod extended;
mod folders;
mod locks;
mod names;
mod special;
mod users;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::io::Errno;

const HELP: &str = "\
fs-operations: does things with files and prints how each ended

Usage: fs-operations FOLDER

As root. FOLDER must be empty; what is made in it is left there. Exit status: 0 when all was done, however it ended.
";

/// Something to do in an empty folder. It says what it found.
type Operation = fn(&Path) -> Outcome;

/// What an operation found, or the error that ended it.
type Outcome = Result<String, Failure>;

/// An operation with its name.
type Named = (&'static str, Operation);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder] = arguments.as_slice() else {
        eprint!("{HELP}");
        return ExitCode::FAILURE;
    };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let groups = [
        names::OPERATIONS,
        folders::OPERATIONS,
        contents::OPERATIONS,
        attributes::OPERATIONS,
        extended::OPERATIONS,
        special::OPERATIONS,
        locks::OPERATIONS,
        users::OPERATIONS,
    ];
    for (number, (name, operation)) in groups.concat().into_iter().enumerate() {
        match fresh_folder(Path::new(folder), number).and_then(|folder| operation(&folder)) {
            Ok(found) => println!("{name}: {found}"),
            Err(failure) => println!("{name}: {failure}"),
        }
    }
    ExitCode::SUCCESS
}

fn fresh_folder(parent: &Path, number: usize) -> Result<PathBuf, Failure> {
    let folder = parent.join(number.to_string());
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// An error, shown by its symbol.
struct Failure(i32);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Failure(error.raw_os_error())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", nix::errno::Errno::from_raw(self.0))
    }
}

/// How something ended that may fail without ending the operation.
fn ended<T>(result: Result<T, impl Into<Failure>>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.into().to_string(),
    }
}

/// How things ended, one after the other.
fn all(endings: impl IntoIterator<Item = String>) -> Outcome {
    Ok(endings.into_iter().collect::<Vec<_>>().join(" "))
}

/// Mode, links, owner and size of a file, without following a link.
fn facts(path: &Path) -> Outcome {
    use std::os::unix::fs::MetadataExt;
    let status = fs::symlink_metadata(path)?;
    // A folder's size is its file system's own business.
    let size = if status.is_dir() { 0 } else { status.size() };
    Ok(format!(
        "{:o} x{} {}:{} {size}",
        status.mode(),
        status.nlink(),
        status.uid(),
        status.gid()
    ))
}
