//! How long tests took last time, so that the longest start first. Losing it costs some minutes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Test;

/// Seconds by test, kept in a file.
#[derive(Debug)]
pub struct Durations {
    file: Option<PathBuf>,
    seconds: BTreeMap<String, f64>,
}

impl Durations {
    /// What the file says, which may be nothing.
    pub fn load(file: Option<&Path>) -> Self {
        let text = file.and_then(|file| fs::read(file).ok()).unwrap_or_default();
        Self {
            file: file.map(Path::to_owned),
            seconds: serde_json::from_slice(&text).unwrap_or_default(),
        }
    }

    /// Seconds; a test that was never seen counts as long.
    pub fn expected(&self, test: &Test) -> f64 {
        self.seconds
            .get(&test.to_string())
            .copied()
            .unwrap_or(f64::INFINITY)
    }

    /// Remembers what a test took.
    pub fn note(&mut self, test: &Test, took: Duration) {
        self.seconds.insert(test.to_string(), took.as_secs_f64());
    }

    /// Keeps it for the next run, if that is possible.
    pub fn save(&self) {
        if let (Some(file), Ok(text)) = (&self.file, serde_json::to_vec(&self.seconds)) {
            // A matter of speed alone.
            let _ = fs::write(file, text);
        }
    }
}
