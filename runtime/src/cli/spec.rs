//! `bulkhead spec`

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use super::{Error, Status, io};
use crate::oci::DEFAULT_CONFIG;

/// Write a config.json to start from
#[derive(Debug, Args)]
pub struct Spec {
    /// Folder to write it to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Refused: only root can run containers
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    pub fn execute(self) -> Status {
        if self.rootless {
            return Err(Error::NotRoot);
        }
        let file = self.bundle.join("config.json");
        let written = File::create_new(&file).and_then(|mut to| to.write_all(DEFAULT_CONFIG.as_bytes()));
        match written {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(Error::Exists(file)),
            Err(e) => Err(io(file.display().to_string())(e)),
        }
    }
}
