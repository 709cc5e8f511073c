//! What a program of the suite says: TAP (testanything.org), with habits of its own.

use std::process::ExitStatus;

/// How the line begins that says how many points there are.
const PLAN: &str = "1..";
/// The complaint about a program that makes none.
const SILENT: &str = "it said nothing";

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It says that it does not apply here.
    Skipped,
    /// It does not hold: its first complaint.
    Failed(String),
}

/// Reads what a program printed on stdout and stderr.
///
/// A program that makes no points of its own (plan `1..0`) complains in a diagnostic and still ends with 0, so that an
/// `error` there counts; elsewhere `error` in a diagnostic may belong to a point that holds. One that prints nothing at
/// all has lost what the container said.
pub fn verdict(printed: &str, status: ExitStatus) -> Verdict {
    let complaint = printed.lines().find_map(|line| line.strip_prefix("not ok "));
    let makes_points = printed.lines().any(|line| line.starts_with("ok "));
    let error = printed
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("\"error\": "))
        .filter(|_| !makes_points);
    if let Some(complaint) = complaint {
        return Verdict::Failed(without_number(complaint).to_owned());
    }
    if let Some(error) = error {
        let first = error.trim_matches('"').split("\\n").next().unwrap_or_default();
        return Verdict::Failed(first.to_owned());
    }
    if !status.success() {
        let last = printed
            .lines()
            .rev()
            .find(|line| !line.starts_with("exit status") && !line.starts_with(PLAN));
        return Verdict::Failed(last.unwrap_or(SILENT).to_owned());
    }
    if printed.is_empty() {
        return Verdict::Failed(SILENT.to_owned());
    }
    let points: Vec<&str> = printed.lines().filter(|line| line.starts_with("ok ")).collect();
    if !points.is_empty() && points.iter().all(|point| point.to_lowercase().contains("# skip")) {
        return Verdict::Skipped;
    }
    Verdict::Passed
}

fn without_number(point: &str) -> &str {
    point.split_once(" - ").map_or(point, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn ended(printed: &str, code: i32) -> Verdict {
        verdict(printed, ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn every_point_must_hold() {
        assert_eq!(ended("TAP version 13\nok 1 - a\n1..1\n", 0), Verdict::Passed);
        assert_eq!(
            ended("TAP version 13\nok 1 - a\nnot ok 2 - b MUST c\n1..2\n", 0),
            Verdict::Failed("b MUST c".into())
        );
    }

    #[test]
    fn a_diagnostic_counts_where_there_are_no_points() {
        let complains = "TAP version 13\n  ---\n  {\n    \"error\": \"called too late\\nRefer to: x\"\n  }\n  ...\n1..0\n";
        assert_eq!(ended(complains, 0), Verdict::Failed("called too late".into()));
        let expected = "TAP version 13\nok 1 - it is refused\n  ---\n  {\n    \"error\": \"exit status 1\"\n  }\n  ...\n";
        assert_eq!(ended(expected, 0), Verdict::Passed);
        assert_eq!(ended("TAP version 13\n1..0\n", 0), Verdict::Passed);
    }

    #[test]
    fn an_exit_code_counts() {
        assert_eq!(
            ended(
                "TAP version 13\nok 1 - a\noperation not permitted\nexit status 1\n",
                1
            ),
            Verdict::Failed("operation not permitted".into())
        );
    }

    #[test]
    fn the_reason_is_said_before_the_plan() {
        assert_eq!(
            ended(
                "TAP version 13\nbulkhead: it is of cgroup v1\n1..0\nexit status 1\n",
                1
            ),
            Verdict::Failed("bulkhead: it is of cgroup v1".into())
        );
    }

    #[test]
    fn silence_is_no_success() {
        assert_eq!(ended("", 0), Verdict::Failed(SILENT.into()));
    }

    #[test]
    fn a_test_may_not_apply() {
        assert_eq!(
            ended("TAP version 13\nok 1 # SKIP no SELinux\n1..1\n", 0),
            Verdict::Skipped
        );
    }
}
