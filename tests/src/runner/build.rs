//! Building the integration tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::RunError;

/// Has cargo build the integration tests of this crate; returns their binaries.
///
/// # Errors
/// They do not compile, or there are none.
pub fn build_integration_tests() -> Result<Vec<PathBuf>, RunError> {
    let mut cargo = Command::new("cargo");
    cargo.args([
        "test",
        "--quiet",
        "--package",
        env!("CARGO_PKG_NAME"),
        "--test",
        "*",
        "--no-run",
    ]);
    cargo
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = cargo
        .output()
        .map_err(|error| RunError::Build(format!("cargo: {error}")))?;
    if !output.status.success() {
        return Err(RunError::Build(format!(
            "the integration tests do not build: cargo: {}",
            output.status
        )));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let binaries: Vec<PathBuf> = messages.lines().filter_map(test_binary).collect();
    if binaries.is_empty() {
        Err(RunError::Build("there are no integration tests".into()))
    } else {
        Ok(binaries)
    }
}

/// What cargo says of a test binary (the Cargo book, "External tools").
fn test_binary(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message["target"]["kind"]
        .as_array()?
        .iter()
        .any(|kind| kind == "test");
    if is_test {
        Some(PathBuf::from(message["executable"].as_str()?))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_binaries_are_taken() {
        let test = r#"{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/t/run-0"}"#;
        let lib = r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}"#;
        let bin = r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/t/bulkhead"}"#;
        let end = r#"{"reason":"build-finished","success":true}"#;
        let found: Vec<_> = [test, lib, bin, end, "not JSON"]
            .into_iter()
            .filter_map(test_binary)
            .collect();
        assert_eq!(found, [PathBuf::from("/t/run-0")]);
    }
}
