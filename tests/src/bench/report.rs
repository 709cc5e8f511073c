//! The documents that show figures.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::BenchError;
use super::experiments::subjects;
use super::figures::Figure;
use super::record::Record;
use super::targets::{self, Target};

/// The line in performance.md after each table.
pub const END: &str = "<!-- end of figures -->";

/// Whom bulkhead is compared with, in the order of the columns.
const PEERS: [&str; 3] = [subjects::RUNC, subjects::CRUN, subjects::QEMU];

/// Puts a table into performance.md, between its markers: the line `begin`, and [`END`].
pub fn write(docs: &Path, begin: &str, table: &str) -> Result<(), BenchError> {
    let path = docs.join("performance.md");
    let text = fs::read_to_string(&path).map_err(BenchError::file(&path))?;
    let Some(text) = replace_figures(&text, begin, table) else {
        let begin = begin.to_owned();
        return Err(BenchError::NoMarkers { path, begin });
    };
    fs::write(&path, text).map_err(BenchError::file(&path))
}

fn replace_figures(text: &str, begin: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{table}\n{END}{after}"))
}

/// The figures as a table in Markdown: a row for each thing measured, a column for each that something was measured of.
pub fn table(figures: &[Figure], before: Option<&Record>) -> String {
    let peers: Vec<&str> = PEERS
        .into_iter()
        .filter(|peer| figures.iter().any(|figure| figure.subject == *peer))
        .collect();
    let mut columns = vec!["bulkhead", "spread", "change", "target", "of target"];
    columns.extend(&peers);
    let mut text = format!(
        "| | {} |\n|---|{}\n",
        columns.join(" | "),
        "--:|".repeat(columns.len())
    );
    let mut seen = BTreeSet::new();
    for figure in figures {
        if seen.insert(&figure.row) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}", line(&figure.row, figures, &peers, before));
        }
    }
    text
}

/// All that there is about a row.
fn line(row: &str, figures: &[Figure], peers: &[&str], before: Option<&Record>) -> String {
    let of = |subject: &str| {
        figures
            .iter()
            .find(|figure| figure.row == row && figure.subject == subject)
    };
    let ours = of(subjects::BULKHEAD);
    let value = |figure: Option<&Figure>| {
        figure.map_or("-".to_owned(), |figure| {
            format!("{:.2} {}", figure.median, figure.unit)
        })
    };
    let spread = ours
        .filter(|figure| figure.samples.len() > 1)
        .map(|figure| format!("{:.1} %", figure.spread_percent()));
    let change = ours.and_then(|figure| {
        let before = before?.figure(row, subjects::BULKHEAD)?;
        Some(format!("{:+.1} %", (figure.median / before.median - 1.0) * 100.0))
    });
    let target = ours.and_then(|figure| {
        let (most, text) = match targets::of(row)? {
            Target::AtMost(most) => (most, format!("{most} {}", figure.unit)),
            Target::Times(times, subject) => (times * of(subject)?.median, format!("{times} × {subject}")),
        };
        Some((text, format!("{:.2}", figure.median / most)))
    });
    let (target, ratio) = target.unzip();
    let shown = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    let mut cells = vec![
        // What is no peer's row is the host's own.
        value(ours.or_else(|| of(subjects::LINUX))),
        shown(spread),
        shown(change),
        shown(target),
        shown(ratio),
    ];
    cells.extend(peers.iter().map(|peer| value(of(peer))));
    format!("| {row} | {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::experiments::rows;
    use crate::bench::record::EmulatedHost;
    use crate::bench::suite::Suite;
    use crate::bench::unit::Unit;

    fn figure(row: &str, subject: &str, samples: &[f64]) -> Figure {
        Figure::new(row, subject, Unit::Milliseconds, samples.to_vec()).unwrap()
    }

    #[test]
    fn a_row_has_peers_target_and_change() {
        let before = Record {
            emulated_host: EmulatedHost {
                kernel: String::new(),
                emulator: String::new(),
            },
            figures: vec![figure(rows::RUN, subjects::BULKHEAD, &[80.0])],
        };
        let now = [
            figure(rows::RUN, subjects::BULKHEAD, &[59.0, 60.0, 62.0]),
            figure(rows::RUN, subjects::RUNC, &[50.0]),
            figure("other", subjects::LINUX, &[1.0]),
        ];
        let table = table(&now, Some(&before));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "| | bulkhead | spread | change | target | of target | runc |",
                "|---|--:|--:|--:|--:|--:|--:|",
                "| `run` of `true`, exec to exit | 60.00 ms | 5.0 % | -25.0 % | 0.6 × runc | 2.00 | 50.00 ms |",
                "| other | 1.00 ms | - | - | - | - | - |",
            ]
        );
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let (begin, other) = (Suite::Start.begin(), Suite::Io.begin());
        let text = |ours: &str| format!("before\n{other}\nkept\n{END}\n{begin}\n{ours}\n{END}\nafter\n");
        let new = replace_figures(&text("old"), &begin, "new").unwrap();
        assert_eq!(new, text("\nnew"));
        assert_eq!(replace_figures("no markers", &begin, "new"), None);
    }
}
