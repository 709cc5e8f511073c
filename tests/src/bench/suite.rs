//! What is measured together, and written down together.

use clap::ValueEnum;

use super::experiments::{Bundle, Measurement, growth, io, start};

/// Measurements with a table in performance.md and a file of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Time and memory of a start
    Start,
    /// What input and output cost
    Io,
    /// How costs grow
    Growth,
}

impl Suite {
    /// Everything, in order.
    pub fn measurements(self) -> Vec<Measurement> {
        match self {
            Self::Start => start::all(),
            Self::Io => io::all(),
            Self::Growth => growth::all(),
        }
    }

    /// The bundles that they need.
    pub fn bundles(self) -> Vec<Bundle> {
        match self {
            Self::Start => start::bundles(),
            Self::Io => io::bundles(),
            Self::Growth => growth::bundles(),
        }
    }

    /// Memory of the emulated host, MiB.
    pub fn host_memory_mib(self) -> u32 {
        match self {
            Self::Start | Self::Io => 3072,
            Self::Growth => 8192,
        }
    }

    /// Who writes it down.
    pub fn command(self) -> &'static str {
        match self {
            Self::Start => "make bench",
            Self::Io => "make bench-io",
            Self::Growth => "make bench-growth",
        }
    }

    /// The name of the file of figures, in the folder of the documents.
    pub fn record(self) -> &'static str {
        match self {
            Self::Start => "performance.json",
            Self::Io => "performance-io.json",
            Self::Growth => "performance-growth.json",
        }
    }

    /// The line in performance.md before its table.
    pub fn begin(self) -> String {
        format!("<!-- figures: written by `{}` -->", self.command())
    }
}
