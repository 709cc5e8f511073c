//! `bulkhead list`

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{Global, Status, output::print};
use crate::{
    container::describe,
    logging,
    sandbox::{State, StateFolder},
};

/// The least width of a column, the same as in runc's table.
const NARROWEST: usize = 9;

/// List the containers
#[derive(Debug, Args)]
pub struct List {
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    /// Print the names only
    #[arg(short, long)]
    quiet: bool,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// For people
    #[default]
    Table,
    /// One JSON array
    Json,
}

impl List {
    pub fn execute(self, global: &Global) -> Status {
        let mut states = Vec::new();
        for folder in StateFolder::all(&global.root)? {
            match folder.load() {
                Ok(state) => states.extend(state),
                // One damaged record is no reason to hide the others.
                Err(error) => logging::report(&error, &[]),
            }
        }
        let text: String = if self.quiet {
            states.iter().map(|state| format!("{}\n", state.id)).collect()
        } else if self.format == ListFormat::Json {
            format!("{}\n", Value::from_iter(states.iter().map(describe)))
        } else {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            rows.extend(states.into_iter().map(row));
            table(&rows)
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn row(state: State) -> [String; 6] {
    [
        state.id.to_string(),
        state.current_pid().to_string(),
        state.current_status().to_string(),
        state.bundle.display().to_string(),
        state.created,
        "root".to_owned(),
    ]
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row.get(column).map_or(0, String::len))
            .max()
            .unwrap_or(0)
            .max(NARROWEST)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}
