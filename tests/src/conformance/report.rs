//! The table in docs/conformance.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::{ConformanceError, Results, Verdict};

/// The line before the table.
const BEGIN: &str = "<!-- results: written by `make conformance` -->";
/// The line after the table.
const END: &str = "<!-- end of results -->";

/// Why bulkhead fails what it fails, by test.
const REASONS: &str = include_str!("reasons.toml");

/// Replaces the table in `document` by these results; the first runtime's failures get their reasons.
///
/// # Errors
/// `document` cannot be changed, or a failure of the first runtime has no reason: the table is written even so.
pub fn write(document: &Path, runtimes: &[(String, Results)]) -> Result<(), ConformanceError> {
    let reasons = reasons();
    let text = fs::read_to_string(document).map_err(ConformanceError::file(document))?;
    let position = |marker: &'static str| {
        text.find(marker).ok_or_else(|| ConformanceError::NoMarker {
            path: document.to_owned(),
            marker,
        })
    };
    let (begin, end) = (position(BEGIN)? + BEGIN.len(), position(END)?);
    let head = text.get(..begin).unwrap_or_default();
    let tail = text.get(end..).unwrap_or_default();
    let table = table(runtimes, &reasons);
    fs::write(document, format!("{head}\n\n{table}\n{tail}")).map_err(ConformanceError::file(document))?;
    let unexplained = unexplained(runtimes, &reasons);
    if unexplained.is_empty() {
        Ok(())
    } else {
        Err(ConformanceError::Unexplained(unexplained))
    }
}

fn reasons() -> BTreeMap<String, String> {
    toml::from_str(REASONS).expect("reasons.toml maps names to sentences")
}

fn unexplained(runtimes: &[(String, Results)], reasons: &BTreeMap<String, String>) -> Vec<String> {
    let Some((_, ours)) = runtimes.first() else {
        return Vec::new();
    };
    ours.iter()
        .filter(|(test, verdict)| matches!(verdict, Verdict::Failed(_)) && !reasons.contains_key(*test))
        .map(|(test, _)| test.clone())
        .collect()
}

fn table(runtimes: &[(String, Results)], reasons: &BTreeMap<String, String>) -> String {
    let mut text = String::from("| test |");
    let mut line = String::from("|---|");
    for (name, results) in runtimes {
        let passed = results.values().filter(|v| **v == Verdict::Passed).count();
        // Writing to a string cannot fail.
        let _ = write!(text, " {name} ({passed} of {}) |", results.len());
        line.push_str("---|");
    }
    let _ = writeln!(text, " why bulkhead fails it |\n{line}---|");
    let tests = runtimes.first().map(|(_, results)| results.keys());
    for test in tests.into_iter().flatten() {
        let verdicts: Vec<_> = runtimes.iter().map(|(_, results)| results.get(test)).collect();
        let _ = write!(text, "| {test} |");
        for verdict in &verdicts {
            let _ = write!(text, " {} |", verdict.map_or("not run", word));
        }
        let fails = matches!(verdicts.first(), Some(Some(Verdict::Failed(_))));
        let reason = reasons.get(test).filter(|_| fails).map_or("", String::as_str);
        let _ = writeln!(text, " {reason} |");
    }
    text
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "pass",
        Verdict::Skipped => "skip",
        Verdict::Failed(_) => "FAIL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(verdicts: &[(&str, Verdict)]) -> Results {
        verdicts
            .iter()
            .map(|(name, verdict)| ((*name).to_owned(), verdict.clone()))
            .collect()
    }

    #[test]
    fn the_table_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let document = folder.path().join("conformance.md");
        fs::write(&document, format!("# Before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        let ours = results(&[("create", Verdict::Passed), ("state", Verdict::Skipped)]);
        let theirs = results(&[("create", Verdict::Failed("it broke".into()))]);
        write(&document, &[("bulkhead".into(), ours), ("runc".into(), theirs)]).unwrap();
        let expected = format!(
            "# Before\n{BEGIN}\n\n| test | bulkhead (1 of 2) | runc (0 of 1) | why bulkhead fails it |\n|---|---|---|---|\n\
             | create | pass | FAIL |  |\n| state | skip | not run |  |\n\n{END}\nafter\n"
        );
        assert_eq!(fs::read_to_string(&document).unwrap(), expected);
    }

    #[test]
    fn a_failure_needs_a_reason() {
        let ours = results(&[("no_such_test", Verdict::Failed("it broke".into()))]);
        assert_eq!(
            unexplained(&[("bulkhead".into(), ours)], &reasons()),
            ["no_such_test"]
        );
    }
}
