//! Where the things under test are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something under test is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} to test, {path:?}, is no file with anything in it: build it, or let {variable} name it")]
pub struct NotBuilt {
    /// What it is.
    what: &'static str,
    /// Where it should be.
    path: PathBuf,
    /// What says otherwise.
    variable: &'static str,
}

/// Whether `bulkhead` and the guest are there to be tested.
///
/// # Errors
/// Names the first that is missing or empty.
pub fn check() -> Result<(), NotBuilt> {
    is_built("bulkhead binary", bulkhead(), "BULKHEAD_BINARY")?;
    is_built("guest kernel", kernel(), "BULKHEAD_KERNEL")?;
    is_built("guest initramfs", initramfs(), "BULKHEAD_INITRAMFS")
}

fn is_built(what: &'static str, path: PathBuf, variable: &'static str) -> Result<(), NotBuilt> {
    if fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() > 0) {
        Ok(())
    } else {
        Err(NotBuilt { what, path, variable })
    }
}

/// The `bulkhead` binary: `BULKHEAD_BINARY`, else the release build beside the test's own.
pub fn bulkhead() -> PathBuf {
    env::var_os("BULKHEAD_BINARY").map_or_else(|| release().join("bulkhead"), PathBuf::from)
}

/// The VMM, beside `bulkhead`.
#[must_use]
pub fn vmm() -> PathBuf {
    bulkhead().with_file_name("bulkhead-vmm")
}

/// The guest's kernel: `BULKHEAD_KERNEL`, else what `make` keeps in the target folder.
#[must_use]
pub fn kernel() -> PathBuf {
    env::var_os("BULKHEAD_KERNEL").map_or_else(|| guest().join("vmlinux"), PathBuf::from)
}

/// The guest's initramfs: `BULKHEAD_INITRAMFS`, else what `make` keeps in the target folder.
#[must_use]
pub fn initramfs() -> PathBuf {
    env::var_os("BULKHEAD_INITRAMFS").map_or_else(|| guest().join("initramfs.cpio"), PathBuf::from)
}

/// Makes an initramfs whose `/init` is `program`.
pub fn make_initramfs(program: &Path, output: &Path) {
    let tool = bulkhead().with_file_name("bulkhead-rootfs");
    run(Command::new(tool)
        .arg("initramfs")
        .arg("--agent")
        .arg(program)
        .arg("--output")
        .arg(output));
}

/// Makes a disk image with the agent for a guest's root; `format` is the file system.
///
/// # Panics
/// It cannot be made.
pub fn make_root_image(format: &str, output: &Path) {
    run(Command::new(bulkhead().with_file_name("bulkhead-rootfs"))
        .args(["image", "--format", format, "--agent"])
        .arg(bulkhead().with_file_name("bulkhead-agent"))
        .arg("--output")
        .arg(output));
}

/// A program of this crate.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    profile().join(name)
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn release() -> PathBuf {
    profile().with_file_name("release")
}

fn guest() -> PathBuf {
    let target = profile()
        .ancestors()
        .nth(2)
        .expect("target/TRIPLE/PROFILE")
        .to_owned();
    target.join("guest")
}

/// The folder of this build profile; a test runs from its `deps`.
fn profile() -> PathBuf {
    let exe = env::current_exe().expect("/proc is mounted");
    let folder = exe.parent().expect("a file is in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("deps is in a folder").to_owned()
    } else {
        folder.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_empty_is_named_with_the_variable_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vmlinux");
        let check = |path: &Path| is_built("guest kernel", path.to_owned(), "BULKHEAD_KERNEL");
        for path in [&file, Path::new(""), folder.path()] {
            let line = check(path).unwrap_err().to_string();
            assert!(
                line.contains("guest kernel") && line.contains("BULKHEAD_KERNEL"),
                "{line}"
            );
            assert_eq!(line.lines().count(), 1, "{line}");
        }
        fs::write(&file, "").unwrap();
        assert!(check(&file).is_err());
        fs::write(&file, "ELF").unwrap();
        assert_eq!(check(&file), Ok(()));
    }
}
