//! Running the system's programs to their end.

use std::process::{Command, Stdio};

use super::Error;

/// Runs `command` and returns what it printed on standard output.
///
/// # Errors
/// It did not start, or failed: then with the end of what it printed.
pub fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Program {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed += &String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed {
        command: describe(command),
        status: output.status.to_string(),
        output: tail(&printed, 20),
    })
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
