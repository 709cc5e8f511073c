//! What a helper process prints, for when it fails.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::Stdio;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::tool;

/// How many lines are worth showing.
const SHOWN: usize = 30;

/// A file without a name that others append to.
pub struct Log(File);

impl Log {
    /// An empty one.
    ///
    /// # Errors
    /// There is no temporary folder.
    pub fn new() -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        Ok(Self(file))
    }

    /// The file, for a process that opens it by number.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// A standard stream that ends up here.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn stream(&self) -> io::Result<Stdio> {
        self.0.try_clone().map(Stdio::from)
    }

    /// The last lines; none when they cannot be read, as that is not worth hiding the error that is being reported.
    pub fn tail(&self) -> String {
        let mut text = Vec::new();
        let _ = self.0.try_clone().and_then(|mut file| {
            file.rewind()?;
            file.read_to_end(&mut text)
        });
        tool::tail(&String::from_utf8_lossy(&text), SHOWN)
    }
}
