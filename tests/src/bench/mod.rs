//! The bench: figures in virtual time.
//!
//! One L1 boots with instruction counting, so that one instruction is one nanosecond of its clock at any load of the
//! machine. It runs from an initramfs that holds all there is to measure, works through a [`plan::Plan`], and prints
//! what it measured. [`l1`] is what runs inside.

mod archive;
mod emulator;
mod experiments;
mod floor;
pub mod l1;
pub mod plan;
mod report;

use std::io;
use std::path::PathBuf;

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
        source: io::Error,
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
    #[error("{}: no lines {:?} and {:?} to put the figures between", path.display(), report::BEGIN, report::END)]
    NoMarkers {
        /// The document.
        path: PathBuf,
    },
}

impl BenchError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
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
    /// Measures everything, and writes performance.md and performance.json.
    ///
    /// # Errors
    /// Anything that is missing or fails.
    pub fn record(&self) -> Result<(), BenchError> {
        report::write(&self.docs, &self.figures("")?)
    }

    /// Measures what has `only` in its name; returns the tables.
    ///
    /// # Errors
    /// Anything that is missing or fails.
    pub fn measure(&self, only: &str) -> Result<String, BenchError> {
        Ok(report::tables(&self.figures(only)?))
    }

    fn figures(&self, only: &str) -> Result<Vec<report::Figure>, BenchError> {
        let mut experiments = experiments::all();
        experiments.retain(|experiment| experiment.name.contains(only));
        let samples = emulator::run(self, &experiments)?;
        Ok(report::figures(&experiments, &samples))
    }
}
