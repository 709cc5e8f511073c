//! Command lines that cannot be understood.

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};

use super::{CommandLine, Global};
use crate::logging;

/// What is wrong with a command line, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see bulkhead --help")]
pub struct Mistake(String);

/// What callers expect after a command that does not exist.
const UNKNOWN_COMMAND: u8 = 3;

impl Mistake {
    /// From the parser's several lines: the first paragraph says what is wrong, tips may follow, and then usage.
    fn of(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let paragraphs = text
            .split("\n\n")
            .take_while(|paragraph| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more"))
            .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
        Self(paragraphs.collect::<Vec<_>>().join("; "))
    }
}

/// Says what is wrong with a command line, in the log as well, as far as the line says where that is. Answers with the exit
/// status.
pub fn report(error: &clap::Error) -> u8 {
    let lenient = CommandLine::command().ignore_errors(true).try_get_matches();
    let global = lenient.and_then(|matches| Global::from_arg_matches(&matches));
    if let Ok(global) = global {
        // Who cannot be told there is told on standard error.
        let _ = logging::set_up(global.log.as_deref(), global.log_format, false);
    }
    logging::report(&Mistake::of(error), &[]);
    match error.kind() {
        ErrorKind::InvalidSubcommand => UNKNOWN_COMMAND,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn text(line: &[&str]) -> String {
        let error = CommandLine::try_parse_from(line).expect_err("a mistake");
        Mistake::of(&error).to_string()
    }

    #[test]
    fn a_mistake_is_one_line() {
        let unknown = text(&["bulkhead", "delet"]);
        assert!(
            unknown.starts_with("unrecognized subcommand 'delet'; tip: ") && unknown.contains("'delete'"),
            "{unknown}"
        );
        assert!(!unknown.contains('\n'), "{unknown}");
        assert_eq!(
            text(&["bulkhead", "state"]),
            "the following required arguments were not provided: <ID>; see bulkhead --help"
        );
        assert_eq!(
            text(&["bulkhead", "--log-format", "xml", "list"]),
            "invalid value 'xml' for '--log-format <FORMAT>' [possible values: text, json]; see bulkhead --help"
        );
    }
}
