//! Figures from samples, and the documents that show them.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::BenchError;
use super::experiments::{GUEST_MEMORY_MIB, rows};
use super::plan::{Experiment, Memory, Sample};

/// The line in performance.md before the figures.
pub const BEGIN: &str = "<!-- figures: written by `make bench` -->";
/// The line in performance.md after the figures.
pub const END: &str = "<!-- end of figures -->";

/// What one experiment came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What is measured.
    row: String,
    /// Of whom.
    subject: String,
    /// Every sample, milliseconds of virtual time, in the order of measuring.
    milliseconds: Vec<f64>,
    /// Their median.
    median: f64,
    /// The largest less the smallest, in percent of the median.
    spread_percent: f64,
    /// The largest of what memory was in use, KiB.
    memory_kib: Option<Memory>,
}

/// The figures of all experiments that have samples.
pub fn figures(experiments: &[Experiment], samples: &[(String, Sample)]) -> Vec<Figure> {
    let of = |experiment: &Experiment| {
        let samples: Vec<Sample> = samples
            .iter()
            .filter(|(name, _)| *name == experiment.name)
            .map(|(_, sample)| *sample)
            .collect();
        let (row, subject) = experiment.name.split_once('|')?;
        figure(row, subject, &samples)
    };
    experiments.iter().filter_map(of).collect()
}

fn figure(row: &str, subject: &str, samples: &[Sample]) -> Option<Figure> {
    let milliseconds: Vec<f64> = samples.iter().map(|sample| sample.milliseconds).collect();
    let mut sorted = milliseconds.clone();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (sorted.first()?, sorted.last()?);
    let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    Some(Figure {
        row: row.into(),
        subject: subject.into(),
        spread_percent: (last - first) / median * 100.0,
        median,
        milliseconds,
        memory_kib: samples
            .iter()
            .filter_map(|sample| sample.memory)
            .max_by_key(|memory| memory.host),
    })
}

/// Puts the figures into performance.md, between its markers, and into performance.json.
pub fn write(docs: &Path, figures: &[Figure]) -> Result<(), BenchError> {
    let path = docs.join("performance.md");
    let text = fs::read_to_string(&path).map_err(BenchError::file(&path))?;
    let text = replace_figures(&text, &tables(figures))
        .ok_or_else(|| BenchError::NoMarkers { path: path.clone() })?;
    fs::write(&path, text).map_err(BenchError::file(&path))?;
    let path = docs.join("performance.json");
    let json = serde_json::to_string_pretty(figures).expect("representable") + "\n";
    fs::write(&path, json).map_err(BenchError::file(&path))
}

fn replace_figures(text: &str, tables: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

/// The figures as two tables in Markdown.
pub fn tables(figures: &[Figure]) -> String {
    let mut text = "| time | of | median | spread |\n|---|---|--:|--:|\n".to_owned();
    for figure in figures {
        let Figure {
            row,
            subject,
            median,
            spread_percent,
            ..
        } = figure;
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "| {row} | {subject} | {median:.2} ms | {spread_percent:.1} % |"
        );
    }
    let _ = write!(
        text,
        "\n| memory, guests of {GUEST_MEMORY_MIB} MiB | of | host, PSS | of it anonymous | guest's RAM touched |\n\
         |---|---|--:|--:|--:|\n"
    );
    for figure in figures {
        let Some(memory) = figure.memory_kib else { continue };
        let when = match figure.row.as_str() {
            rows::FLOOR => "VMM, guest that only prints",
            rows::READY => "VMM, agent ready",
            _ => "everything for one running container",
        };
        let _ = writeln!(
            text,
            "| {when} | {} | {} | {} | {} |",
            figure.subject,
            mib(memory.host),
            mib(memory.anonymous),
            if memory.guest == 0 {
                "-".into()
            } else {
                mib(memory.guest)
            },
        );
    }
    text
}

fn mib(kib: u64) -> String {
    format!("{}.{:02} MiB", kib / 1024, kib % 1024 * 100 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(milliseconds: f64, host: u64) -> Sample {
        Sample {
            milliseconds,
            memory: Some(Memory {
                host,
                anonymous: 1,
                guest: 0,
            }),
        }
    }

    #[test]
    fn median_spread_and_largest_memory() {
        let figure = figure("row", "x", &[sample(3.0, 10), sample(1.0, 30), sample(2.0, 20)]).unwrap();
        assert_eq!((figure.median, figure.spread_percent), (2.0, 100.0));
        assert_eq!(figure.memory_kib.unwrap().host, 30);
        assert_eq!(super::figure("row", "x", &[]), None);
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace_figures(&text, "new").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(replace_figures("no markers", "new"), None);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(mib(1536), "1.50 MiB");
        assert_eq!(mib(64), "0.06 MiB");
    }
}
