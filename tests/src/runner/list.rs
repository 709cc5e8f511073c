//! Which tests there are.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::RunError;

/// One test of one libtest binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// The binary.
    pub binary: PathBuf,
    /// Its name in the binary, with modules.
    pub name: String,
}

impl fmt::Display for Test {
    /// `binary::module::name`, the binary without cargo's hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.binary.file_name().unwrap_or_default().to_string_lossy();
        let stem = match file.rsplit_once('-') {
            Some((stem, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => stem,
            _ => &file,
        };
        write!(f, "{stem}::{}", self.name)
    }
}

/// The tests of all binaries, in order, that contain the filter.
pub fn tests(binaries: &[PathBuf], filter: Option<&str>) -> Result<Vec<Test>, RunError> {
    let mut tests = Vec::new();
    for binary in binaries {
        let names = names(binary).map_err(|source| RunError::List {
            binary: binary.clone(),
            source,
        })?;
        tests.extend(names.into_iter().map(|name| Test {
            binary: binary.clone(),
            name,
        }));
    }
    if let Some(filter) = filter {
        tests.retain(|test| test.to_string().contains(filter));
    }
    Ok(tests)
}

fn names(binary: &Path) -> io::Result<Vec<String>> {
    let output = Command::new(binary)
        .args(["--list", "--format", "terse"])
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(output.status.to_string()));
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(lines
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}
