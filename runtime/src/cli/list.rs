//! `bulkhead list`

use std::process::ExitCode;

use clap::Args;

use super::{Global, Status};
use crate::{
    logging,
    sandbox::{StateFolder, Status as ContainerStatus},
};

/// List the containers
#[derive(Debug, Args)]
pub struct List {
    /// Print the names only
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    pub fn execute(self, global: &Global) -> Status {
        let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
        for folder in StateFolder::all(&global.root)? {
            match folder.load() {
                Ok(Some(record)) => {
                    let status = record.current_status();
                    let pid = if status == ContainerStatus::Stopped {
                        0
                    } else {
                        record.monitor.pid
                    };
                    rows.push([
                        record.id.to_string(),
                        pid.to_string(),
                        status.to_string(),
                        record.bundle.display().to_string(),
                        record.created,
                        "root".to_owned(),
                    ]);
                }
                Ok(None) => {}
                // One damaged record is no reason to hide the others.
                Err(error) => logging::report(&error, &[]),
            }
        }
        if self.quiet {
            rows.iter().skip(1).for_each(|[id, ..]| println!("{id}"));
        } else {
            print_table(&rows);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row.get(column).map_or(0, String::len))
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("   ").trim_end());
    }
}
