//! `bulkhead metrics`

use std::process::ExitCode;

use clap::Args;

use super::{Global, Status, event_loop, output::print};
use crate::metrics;

/// Print the figures of all sandboxes and their containers, for Prometheus
///
/// The figures of one sandbox are also served over HTTP, at metrics.sock in the folder of its state.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Only those of the sandbox that this container owns
    #[arg(value_name = "ID")]
    id: Option<String>,
}

impl Metrics {
    pub fn execute(self, global: &Global) -> Status {
        let sandbox = self.id.map(|id| global.container(id)).transpose()?;
        let folder = sandbox.as_ref().map(|(folder, _)| folder);
        let runtime = event_loop()?;
        let text = runtime.block_on(metrics::text(&global.root, folder))?;
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
