//! The runner on small libtest look-alikes: a shell script that lists and runs "tests" is all the runner can see of a
//! binary.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const SCRIPT: &str = r#"#!/bin/sh
if [ "$1" = --list ]; then
    echo 'passes: test'
    echo 'fails: test'
    echo 'hangs: test'
    echo 'does::nothing: test'
    echo 'is: benchmark'
    exit
fi
case $2 in
does::nothing) ;;
*) printf '\nrunning 1 test\n' ;;
esac
echo "said by $2"
case $2 in
fails) exit 101 ;;
hangs) sleep 1000 & sleep 1000 ;;
esac
"#;

fn plan(folder: &Path, filter: Option<&str>) -> Plan {
    let binary = folder.join("suite-0123456789abcdef");
    fs::write(&binary, SCRIPT).unwrap();
    fs::set_permissions(&binary, Permissions::from_mode(0o755)).unwrap();
    Plan {
        binaries: vec![binary],
        filter: filter.map(str::to_owned),
        jobs: 2,
        limit: Duration::from_secs(2),
        durations: Some(folder.join("durations")),
        place: Place::Host,
        l1: Options {
            memory_mib: 0,
            work_tree: folder.to_owned(),
        },
    }
}

fn outcome(name: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), None);
    let test = Test {
        binary: plan.binaries[0].clone(),
        name: name.to_owned(),
    };
    Worker::new(1, &plan).run(&test).unwrap()
}

#[test]
fn a_test_that_passes_passes_and_its_output_is_kept() {
    let outcome = outcome("passes");
    assert_eq!(outcome.verdict, Verdict::Passed);
    assert!(
        String::from_utf8(outcome.output)
            .unwrap()
            .ends_with("said by passes\n")
    );
}

#[test]
fn a_test_that_fails_fails() {
    assert!(matches!(outcome("fails").verdict, Verdict::Failed(why) if why.contains("101")));
}

#[test]
fn a_test_that_hangs_is_killed_with_what_it_started() {
    let outcome = outcome("hangs");
    assert!(matches!(outcome.verdict, Verdict::Failed(why) if why.contains("killed")));
    assert!(outcome.took >= Duration::from_secs(2));
    assert!(
        outcome.took < Duration::from_secs(900),
        "the pipe was closed: nothing of the session is left"
    );
}

#[test]
fn a_binary_that_runs_nothing_does_not_pass() {
    assert!(matches!(outcome("does::nothing").verdict, Verdict::Failed(why) if why.contains("did not run")));
}

#[test]
fn everything_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        run(&plan(folder.path(), None)).unwrap(),
        Summary { passed: 1, failed: 3 }
    );
    assert_eq!(
        run(&plan(folder.path(), Some("suite::pass"))).unwrap(),
        Summary { passed: 1, failed: 0 }
    );
}

#[test]
fn the_longest_test_starts_first() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), None);
    let test = |name: &str| Test {
        binary: plan.binaries[0].clone(),
        name: name.to_owned(),
    };
    let mut durations = Durations::load(plan.durations.as_deref());
    durations.note(&test("passes"), Duration::from_secs(1));
    durations.note(&test("fails"), Duration::from_secs(5));
    durations.save();
    let durations = Durations::load(plan.durations.as_deref());
    let mut tests = [test("passes"), test("fails"), test("never seen")];
    tests.sort_by(|a, b| durations.expected(b).total_cmp(&durations.expected(a)));
    assert_eq!(tests.map(|test| test.name), ["never seen", "fails", "passes"]);
}

#[test]
fn nothing_run_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let summary = run(&plan(folder.path(), Some("no such test"))).unwrap();
    assert_eq!(summary, Summary::default());
    assert!(!summary.is_success());
}

#[test]
fn a_binary_that_does_not_list_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        binaries: vec!["/bin/false".into()],
        ..plan(folder.path(), None)
    };
    assert!(matches!(run(&plan), Err(RunError::List { .. })));
}
