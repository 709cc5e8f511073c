//! `bulkhead state`

use std::process::ExitCode;

use clap::Args;

use super::{Global, Status, output::print};
use crate::container::describe;

/// Print a container's state as JSON
#[derive(Debug, Args)]
pub struct State {
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

impl State {
    pub fn execute(self, global: &Global) -> Status {
        let (_, state) = global.container(self.id)?;
        print(&format!("{:#}\n", describe(&state)))?;
        Ok(ExitCode::SUCCESS)
    }
}
