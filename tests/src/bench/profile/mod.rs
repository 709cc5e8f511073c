//! `make profile`: where the instructions of a start go, by function.

mod counts;
mod symbols;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use self::counts::{Counts, Part};
use self::symbols::Symbols;
pub use self::symbols::is_function;
use super::experiments::{rows, subjects};
use super::plan::Sample;
use super::suite::Suite;
use super::{Bench, BenchError, emulator, kernel, report};

/// What is profiled.
const ROWS: [&str; 2] = [rows::READY, rows::RUN];

/// How many functions are named.
const NAMED: usize = 12;

/// The line in performance.md before the tables.
const BEGIN: &str = "<!-- figures: written by `make profile` -->";

/// Who counts instructions by function.
pub struct Profiler {
    /// bulkhead-profiler, a plugin of QEMU's.
    pub plugin: PathBuf,
    /// What it writes to.
    pub output: PathBuf,
}

impl Bench {
    /// Counts the instructions of a start by function, and writes the tables of that in performance.md.
    ///
    /// `plugin` is bulkhead-profiler, and `system_map` has the symbols of the guest's kernel.
    ///
    /// # Errors
    /// Anything that is missing or fails.
    pub fn profile(&self, plugin: &Path, system_map: &Path) -> Result<(), BenchError> {
        let guest = fs::read_to_string(system_map).map_err(BenchError::file(system_map))?;
        let folder = tempfile::tempdir().map_err(BenchError::file("a temporary folder"))?;
        let profiler = Profiler {
            plugin: plugin.to_owned(),
            output: folder.path().join("counts"),
        };
        let mut measurements = Suite::Start.measurements();
        measurements.retain(|measurement| {
            measurement.subject() == subjects::BULKHEAD && ROWS.contains(&measurement.row())
        });
        for measurement in &mut measurements {
            measurement.experiment.runs = 1;
        }
        let kernel = kernel()?;
        let results = emulator::run(self, &kernel, Suite::Start, &measurements, Some(&profiler))?;
        let text = fs::read_to_string(&profiler.output).map_err(BenchError::file(&profiler.output))?;
        let counts = Counts::parse(&text, &Symbols::parse(&results.symbols), &Symbols::parse(&guest))
            .ok_or(BenchError::NoProfile)?;
        // Before each that is measured is one that is not.
        let counts = counts.into_iter().skip(1).step_by(2);
        let samples = results.samples.iter().map(|(_, sample)| *sample);
        let columns: Vec<(&str, Sample, Counts)> = measurements
            .iter()
            .zip(samples)
            .zip(counts)
            .map(|((measurement, sample), counts)| (measurement.row(), sample, counts))
            .collect();
        let (.., ready) = columns.first().ok_or(BenchError::NoProfile)?;
        let tables = parts(&columns) + "\n" + &functions(ready);
        println!("{tables}");
        report::write(&self.docs, BEGIN, &tables)
    }
}

/// A row for each part, a column for each start.
fn parts(columns: &[(&str, Sample, Counts)]) -> String {
    let heads: Vec<&str> = columns.iter().map(|(row, ..)| *row).collect();
    let mut text = format!(
        "| ms of virtual time | {} |\n|---|{}\n",
        heads.join(" | "),
        "--:|".repeat(columns.len())
    );
    let mut row = |name: &str, value: &dyn Fn(&Sample, &Counts) -> String| {
        let cells: Vec<String> = columns
            .iter()
            .map(|(_, sample, counts)| value(sample, counts))
            .collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    };
    for part in Part::ALL {
        row(part.name(), &|_, counts| {
            format!("{:.2}", counts.milliseconds(part))
        });
    }
    // A block counts entirely also if an exception ends it before its end.
    row("nothing runs", &|sample, counts| {
        format!(
            "{:.2}",
            (sample.milliseconds - counts.total_milliseconds()).max(0.0)
        )
    });
    row("all", &|sample, _| format!("{:.2}", sample.milliseconds));
    row("entries into the guest (not ms)", &|_, counts| {
        counts.entries.to_string()
    });
    text
}

/// The largest functions of both kernels.
fn functions(counts: &Counts) -> String {
    let host = [Part::HostKernel, Part::HostClears, Part::HostCopies, Part::Kvm];
    let mut host: Vec<_> = host.into_iter().flat_map(|part| counts.largest(part)).collect();
    host.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let guest = counts.largest(Part::GuestKernel);
    let mut text = format!(
        "| {}: functions of the host's kernel | ms | and of the guest's | ms |\n|---|--:|---|--:|\n",
        rows::READY
    );
    for ((host, host_ms), (guest, guest_ms)) in host.into_iter().zip(guest).take(NAMED) {
        let _ = writeln!(text, "| `{host}` | {host_ms:.2} | `{guest}` | {guest_ms:.2} |");
    }
    text
}
