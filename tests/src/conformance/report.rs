//! The table in docs/conformance.md.

use std::collections::{BTreeMap, BTreeSet};
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
/// Which of our own tests assert the same, by test.
const OWN_TESTS: &str = include_str!("own_tests.toml");

/// Replaces the table in `document` by these results; the first runtime's failures get their reasons.
///
/// # Errors
/// `document` cannot be changed; or a failure of the first runtime has no reason, or a test no test of ours: the table is
/// written even so.
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
    let own_tests = own_tests();
    let table = table(runtimes, &reasons, &own_tests);
    fs::write(document, format!("{head}\n\n{table}\n{tail}")).map_err(ConformanceError::file(document))?;
    let unexplained = unexplained(runtimes, &reasons);
    if !unexplained.is_empty() {
        return Err(ConformanceError::Unexplained(unexplained));
    }
    let unmatched = unmatched(runtimes, &own_tests);
    if !unmatched.is_empty() {
        return Err(ConformanceError::Unmatched(unmatched));
    }
    Ok(())
}

fn reasons() -> BTreeMap<String, String> {
    toml::from_str(REASONS).expect("reasons.toml maps names to sentences")
}

fn own_tests() -> BTreeMap<String, Vec<String>> {
    toml::from_str(OWN_TESTS).expect("own_tests.toml maps names to lists of names")
}

fn unmatched(runtimes: &[(String, Results)], own_tests: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let tests = runtimes.iter().flat_map(|(_, results)| results.keys());
    let unmatched: BTreeSet<_> = tests.filter(|test| !own_tests.contains_key(*test)).collect();
    unmatched.into_iter().cloned().collect()
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

fn table(
    runtimes: &[(String, Results)],
    reasons: &BTreeMap<String, String>,
    own_tests: &BTreeMap<String, Vec<String>>,
) -> String {
    let mut text = String::from("| test |");
    let mut line = String::from("|---|");
    for (name, results) in runtimes {
        let passed = results.values().filter(|v| **v == Verdict::Passed).count();
        // Writing to a string cannot fail.
        let _ = write!(text, " {name} ({passed} of {}) |", results.len());
        line.push_str("---|");
    }
    let _ = writeln!(
        text,
        " why bulkhead fails it | the same in `make test` |\n{line}---|---|"
    );
    let tests = runtimes.first().map(|(_, results)| results.keys());
    for test in tests.into_iter().flatten() {
        let verdicts: Vec<_> = runtimes.iter().map(|(_, results)| results.get(test)).collect();
        let _ = write!(text, "| {test} |");
        for verdict in &verdicts {
            let _ = write!(text, " {} |", verdict.map_or("not run", word));
        }
        let fails = matches!(verdicts.first(), Some(Some(Verdict::Failed(_))));
        let reason = reasons.get(test).filter(|_| fails).map_or("", String::as_str);
        let own = own_tests.get(test).map(|tests| quoted(tests)).unwrap_or_default();
        let _ = writeln!(text, " {reason} | {own} |");
    }
    text
}

fn quoted(tests: &[String]) -> String {
    let quoted: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
    quoted.join(", ")
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
        let runtimes = [("bulkhead".into(), ours), ("runc".into(), theirs)];
        write(&document, &runtimes).unwrap();
        let table = table(&runtimes, &reasons(), &own_tests());
        let expected = format!("# Before\n{BEGIN}\n\n{table}\n{END}\nafter\n");
        assert_eq!(fs::read_to_string(&document).unwrap(), expected);
    }

    #[test]
    fn a_failure_comes_with_its_reason_and_a_test_with_ours() {
        let broke = Verdict::Failed("it broke".into());
        let ours = results(&[("create", Verdict::Passed), ("state", broke.clone())]);
        let theirs = results(&[("create", broke)]);
        let reason = |test: &str, reason: &str| (test.to_owned(), reason.to_owned());
        let reasons = [reason("create", "unused"), reason("state", "no state here")].into();
        let own = |test: &str, own: &[&str]| (test.to_owned(), own.iter().map(|&own| own.into()).collect());
        let own_tests = [own("create", &["a::b", "c::d"]), own("state", &["e::f"])].into();
        assert_eq!(
            table(
                &[("bulkhead".into(), ours), ("runc".into(), theirs)],
                &reasons,
                &own_tests
            ),
            "| test | bulkhead (1 of 2) | runc (0 of 1) | why bulkhead fails it | the same in `make test` |\n\
             |---|---|---|---|---|\n\
             | create | pass | FAIL |  | `a::b`, `c::d` |\n\
             | state | FAIL | not run | no state here | `e::f` |\n"
        );
    }

    #[test]
    fn the_tests_of_ours_exist() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        for test in own_tests().into_values().flatten() {
            let (module, name) = test.rsplit_once("::").expect("file::name");
            let file = folder.join(module.replace("::", "/"));
            let text = [file.with_extension("rs"), file.join("main.rs")]
                .iter()
                .find_map(|path| fs::read_to_string(path).ok())
                .unwrap_or_else(|| panic!("there is no file of {test}"));
            assert!(
                text.contains(&format!("#[test]\nfn {name}(")),
                "there is no test {test}"
            );
        }
    }

    #[test]
    fn the_document_says_what_the_lists_say() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
        let text = fs::read_to_string(document).unwrap();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| "))
            .map(|line| line.split('|').map(str::trim).collect())
            .skip(1)
            .collect();
        let (reasons, own_tests) = (reasons(), own_tests());
        assert_eq!(rows.len(), own_tests.len());
        for row in rows {
            let [test, ours, _, reason, own, ""] = row[..] else {
                panic!("not five cells: {row:?}");
            };
            assert_eq!(own, quoted(&own_tests[test]), "{test}");
            let expected = match ours {
                "FAIL" => &reasons[test],
                _ => "",
            };
            assert_eq!(reason, expected, "{test}");
        }
    }

    #[test]
    fn a_test_needs_one_of_ours() {
        let ours = results(&[("no_such_test", Verdict::Passed), ("create", Verdict::Passed)]);
        assert_eq!(
            unmatched(&[("bulkhead".into(), ours)], &own_tests()),
            ["no_such_test"]
        );
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
