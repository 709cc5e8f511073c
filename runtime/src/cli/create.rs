//! `bulkhead create`

use std::process::ExitCode;

use clap::Args;

use super::{Global, Status, creation::CreationOptions};

/// Create a container, whose program then waits for `start`
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    options: CreationOptions,
}

impl Create {
    pub fn execute(self, global: &Global) -> Status {
        self.options.create(global, true)?;
        Ok(ExitCode::SUCCESS)
    }
}
