//! `bulkhead man`

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory};

use super::{CommandLine, Status};

/// Write the manual pages to a folder, as an installation needs them
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Man {
    /// An existing folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    pub fn execute(self) -> Status {
        let command = CommandLine::command().version(env!("CARGO_PKG_VERSION"));
        clap_mangen::generate_to(command, &self.folder)
            .map_err(super::io(self.folder.display().to_string()))?;
        Ok(ExitCode::SUCCESS)
    }
}
