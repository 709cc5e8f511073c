//! The bench: figures in virtual time.
//!
//! One L1 boots with instruction counting, so that one instruction is one nanosecond of its clock at any load of the
//! machine. It runs from an initramfs that holds all there is to measure, works through a [`plan::Plan`], and prints
//! what it measured. [`l1`] is what runs inside.

mod archive;
mod check;
mod emulator;
mod experiments;
mod figures;
mod floor;
mod greeter;
pub mod l1;
mod picture;
pub mod plan;
mod profile;
mod record;
mod report;
mod sizes;
mod suite;
mod targets;
mod timeline;
mod unit;

use std::io::Error;
use std::path::PathBuf;

use self::emulator::Results;
use self::experiments::{Measurement, subjects};
use self::figures::Figure;
use self::record::Record;
pub use self::suite::Suite;
use self::timeline::Timeline;
use crate::testbed::cache;
use crate::testbed::kernel::Kernel;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The testbed's parts are missing.
    #[error(transparent)]
    Testbed(#[from] crate::testbed::Error),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// The bench inside L1 did not get through.
    #[error("{what}; the console ended:\n{console}")]
    L1 {
        /// What happened.
        what: String,
        /// The end of its console.
        console: String,
    },
    /// The document has no place for the figures.
    #[error("{}: no lines {:?} and {:?} to put the figures between", path.display(), begin, report::END)]
    NoMarkers {
        /// The document.
        path: PathBuf,
        /// The first of the two.
        begin: String,
    },
    /// The committed figures are none.
    #[error("{}: {source}; `{command}` writes it anew", path.display())]
    Record {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
        /// What writes it.
        command: &'static str,
    },
    /// The log of a start lacks something.
    #[error("bulkhead's log of a start does not say when a stage or the program ended")]
    NoTimeline,
    /// What was profiled is not there.
    #[error("the profiler did not say what was executed")]
    NoProfile,
    /// Some figures got worse.
    #[error("worse than docs/performance.json has it: {}; if that is meant, `make bench` writes the new figures, to be \
        committed", .0.join(", "))]
    Worse(Vec<String>),
}

impl BenchError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Where the product is and where the figures go.
#[derive(Debug, Clone)]
pub struct Bench {
    /// The folder with the release binaries.
    pub binaries: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initramfs: PathBuf,
    /// The folder of the documents.
    pub docs: PathBuf,
}

impl Bench {
    /// Measures everything of a suite, and writes its table in performance.md and its file of figures; of [`Suite::Start`] also
    /// start.svg.
    ///
    /// # Errors
    /// Anything that is missing or fails.
    pub fn record(&self, suite: Suite) -> Result<(), BenchError> {
        // One that cannot be read is written anew.
        let before = Record::committed(&self.docs, suite).ok().flatten();
        let Measured {
            kernel,
            figures,
            results,
        } = self.figures(suite, |_| true)?;
        let record = Record::new(kernel, figures)?;
        let table = report::table(&record.figures, before.as_ref());
        println!("{table}");
        if suite == Suite::Start {
            let timeline = Timeline::new(&results, &record.figures).ok_or(BenchError::NoTimeline)?;
            picture::write(&self.docs, &timeline)?;
        }
        report::write(&self.docs, &suite.begin(), &table)?;
        record.write(&self.docs, suite)
    }

    /// Measures what the picture is drawn from, and writes start.svg.
    ///
    /// # Errors
    /// Anything that is missing or fails.
    pub fn draw(&self) -> Result<(), BenchError> {
        let measured = self.figures(Suite::Start, |measurement| {
            measurement.subject() == subjects::BULKHEAD && timeline::ROWS.contains(&measurement.row())
        })?;
        let timeline = Timeline::new(&measured.results, &measured.figures).ok_or(BenchError::NoTimeline)?;
        picture::write(&self.docs, &timeline)
    }

    /// Measures what of a suite has `only` in its name; returns the table.
    ///
    /// # Errors
    /// Anything that is missing or fails.
    pub fn measure(&self, suite: Suite, only: &str) -> Result<String, BenchError> {
        let before = Record::committed(&self.docs, suite).ok().flatten();
        let Measured { figures, .. } =
            self.figures(suite, |measurement| measurement.experiment.name.contains(only))?;
        Ok(report::table(&figures, before.as_ref()))
    }

    /// Measures the most important figures, and compares them with the committed ones.
    ///
    /// # Errors
    /// One of them is worse; or anything that is missing or fails.
    pub fn check(&self) -> Result<String, BenchError> {
        let before = Record::committed(&self.docs, Suite::Start)?;
        let Measured { kernel, figures, .. } =
            self.figures(Suite::Start, |measurement| measurement.is_checked)?;
        let table = report::table(&figures, before.as_ref());
        match before {
            Some(before) => check::compare(&Record::new(kernel, figures)?, &before)?,
            None => {
                return Ok(format!(
                    "{table}\nThere are no committed figures to compare with."
                ));
            }
        }
        Ok(table)
    }

    fn figures(&self, suite: Suite, wanted: impl Fn(&Measurement) -> bool) -> Result<Measured, BenchError> {
        let measurements: Vec<_> = suite.measurements().into_iter().filter(wanted).collect();
        let kernel = kernel()?;
        let results = emulator::run(self, &kernel, suite, &measurements, None)?;
        let mut figures = figures::all(&measurements, &results.samples);
        if suite == Suite::Start {
            figures.extend(sizes::figures(self)?);
        }
        Ok(Measured {
            kernel: kernel.release,
            figures,
            results,
        })
    }
}

/// The emulated host's.
fn kernel() -> Result<Kernel, BenchError> {
    let _lock = cache::lock()?;
    Ok(Kernel::get()?)
}

/// What there is after measuring.
struct Measured {
    /// The release of L1's kernel.
    kernel: String,
    figures: Vec<Figure>,
    results: Results,
}
