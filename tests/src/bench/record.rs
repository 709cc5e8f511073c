//! performance.json and its siblings: figures that were measured, and on what.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::BenchError;
use super::figures::Figure;
use super::suite::Suite;
use crate::testbed::tool;

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What the figures depend on beside the product.
    pub emulated_host: EmulatedHost,
    /// In the order of measuring.
    pub figures: Vec<Figure>,
}

/// The parts of the emulated host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmulatedHost {
    /// Its kernel's release.
    pub kernel: String,
    /// The emulator and its version.
    pub emulator: String,
}

impl Record {
    /// Figures that have been measured now.
    pub fn new(kernel: String, figures: Vec<Figure>) -> Result<Self, BenchError> {
        let version = tool::output(Command::new("qemu-system-x86_64").arg("--version"))?;
        let version = String::from_utf8_lossy(&version);
        Ok(Self {
            emulated_host: EmulatedHost {
                kernel,
                emulator: version.lines().next().unwrap_or_default().to_owned(),
            },
            figures,
        })
    }

    /// The figures that were committed last; without git's history, those that are there. None if there are none.
    pub fn committed(docs: &Path, suite: Suite) -> Result<Option<Self>, BenchError> {
        let path = docs.join(suite.record());
        let mut git = Command::new("git");
        git.arg("-C")
            .arg(docs)
            .args(["show", &format!("HEAD:./{}", suite.record())]);
        let Ok(text) = tool::output(&mut git).or_else(|_| fs::read(&path)) else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| BenchError::Record {
                path,
                source,
                command: suite.command(),
            })
    }

    /// Writes it.
    pub fn write(&self, docs: &Path, suite: Suite) -> Result<(), BenchError> {
        let path = docs.join(suite.record());
        let json = serde_json::to_string_pretty(self).expect("representable") + "\n";
        fs::write(&path, json).map_err(BenchError::file(&path))
    }

    /// A figure, if it has been measured.
    pub fn figure(&self, row: &str, subject: &str) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.row == row && figure.subject == subject)
    }
}
