//! `docs/oci-compliance.md` against the list of fields in the code and the tests in the tree.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::spec::{FIELDS, Handling};

const TABLE: &str = include_str!("../../../docs/oci-compliance.md");

/// How many rows there are at least: one for each of the specification's features.
const FEATURES: u8 = 86;

/// A line of the table.
#[derive(Debug)]
struct Line {
    number: u8,
    fields: Vec<&'static str>,
    handling: &'static str,
    tests: Vec<&'static str>,
}

fn lines() -> Vec<Line> {
    let table = TABLE.lines().filter_map(|line| line.strip_prefix("| "));
    let numbered = table.filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    numbered
        .map(|line| {
            let cells: Vec<_> = line.trim_end_matches(" |").split(" | ").map(str::trim).collect();
            let [number, _, fields, handling, tests] = cells[..] else {
                panic!("not five cells: {line}");
            };
            Line {
                number: number.parse().expect("a number"),
                fields: quoted(fields),
                handling,
                tests: quoted(tests),
            }
        })
        .collect()
}

/// What stands between backquotes.
fn quoted(cell: &'static str) -> Vec<&'static str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn handling(handling: Handling) -> String {
    match handling {
        Handling::Host => "host".to_owned(),
        Handling::Guest => "guest".to_owned(),
        Handling::HostAndGuest => "host and guest".to_owned(),
        Handling::Refused(refusal) => format!("refused: {}", refusal.reason),
    }
}

#[test]
fn the_table_and_the_code_agree() {
    let in_table: BTreeSet<(u8, &str, String)> = lines()
        .into_iter()
        .flat_map(|line| {
            let Line { number, handling, .. } = line;
            line.fields
                .into_iter()
                .map(move |field| (number, field, handling.to_owned()))
        })
        .collect();
    let in_code = FIELDS
        .iter()
        .map(|field| (field.row, field.path, handling(field.handling)))
        .collect();
    let missing: Vec<_> = in_table.symmetric_difference(&in_code).collect();
    assert!(missing.is_empty(), "in one of table and code only: {missing:#?}");
}

#[test]
fn every_feature_has_a_row_in_order() {
    let numbers: Vec<u8> = lines().iter().map(|line| line.number).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    for number in 1..=FEATURES {
        assert!(numbers.contains(&number), "row {number} is missing");
    }
}

#[test]
fn every_row_has_tests_that_exist() {
    for line in lines() {
        assert!(!line.tests.is_empty(), "{line:?}");
        for test in &line.tests {
            assert!(exists(test), "row {}: there is no test {test}", line.number);
        }
    }
}

/// Whether there is a function of that name in the file that its path says.
fn exists(test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Some((module, name)) = test.rsplit_once("::") else {
        return false;
    };
    let steps: Vec<&str> = module.split("::").collect();
    let folder = match steps.first() {
        Some(&("runtime" | "agent")) => root.join(steps[0]).join("src"),
        Some(&"protocol") => root.join("agent/protocol/src"),
        _ => root.join("tests/tests").join(steps[0]),
    };
    let mut file = folder;
    file.extend(&steps[1..]);
    let beside = file.parent().map(|parent| parent.with_extension("rs"));
    let candidates: Vec<PathBuf> = [
        Some(file.with_extension("rs")),
        Some(file.join("main.rs")),
        beside.filter(|_| steps.last() == Some(&"tests")),
        file.parent()
            .map(|parent| parent.join("mod.rs"))
            .filter(|_| steps.last() == Some(&"tests")),
    ]
    .into_iter()
    .flatten()
    .collect();
    candidates.iter().any(|path| {
        fs::read_to_string(path).is_ok_and(|text| {
            text.contains(&format!("#[test]\nfn {name}("))
                || text.contains(&format!("#[test]\n    fn {name}("))
        })
    })
}
