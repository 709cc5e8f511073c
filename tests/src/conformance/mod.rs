//! The runtime-spec's own validation suite, run against several runtimes side by side.
//!
//! The suite is the `validation` folder of opencontainers/runtime-tools, built: programs `validation/NAME/NAME.t` that
//! call the runtime named by `RUNTIME` and print TAP, a static `runtimetest` for the inside of containers, and a root
//! file system. It is not part of this project.

mod report;
mod tap;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{self, processes};
pub use report::write;
pub use tap::Verdict;

/// What one program of the suite may take. Those that look at many cgroups take a minute in an emulated host.
const LIMIT: Duration = Duration::from_secs(240);

/// Where the suite makes its bundles. It puts device nodes into them, some with the number by which an overlay marks what
/// is gone, so that an overlay refuses them.
const BUNDLES: &str = "/dev/shm";

/// The suite, as it was built.
#[derive(Debug, Clone)]
pub struct Suite {
    folder: PathBuf,
}

/// A runtime to test.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// What it is called in the report.
    pub name: String,
    program: PathBuf,
}

/// The verdict on every test, by its name.
pub type Results = BTreeMap<String, Verdict>;

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// There is nothing to test.
    #[error(transparent)]
    NothingToTest(#[from] harness::NotBuilt),
    /// The folder is not the suite.
    #[error("{}: no {what}. Build the suite first: docs/conformance.md", folder.display())]
    NotBuilt {
        /// The folder.
        folder: PathBuf,
        /// What is not in it.
        what: &'static str,
    },
    /// A file cannot be read or written, or a program does not start.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The report has no place for the table.
    #[error("{}: no line {marker:?}", path.display())]
    NoMarker {
        /// The report.
        path: PathBuf,
        /// What is looked for.
        marker: &'static str,
    },
    /// bulkhead fails tests and nobody has said why.
    #[error("tests that bulkhead fails without a reason in tests/src/conformance/reasons.toml: {}", .0.join(" "))]
    Unexplained(Vec<String>),
    /// Nobody has said which of our own tests assert the same.
    #[error("tests of the suite without tests of ours in tests/src/conformance/own_tests.toml: {}", .0.join(" "))]
    Unmatched(Vec<String>),
}

impl ConformanceError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

impl Suite {
    /// The suite in `folder`.
    ///
    /// # Errors
    /// It is not there, or not built.
    pub fn open(folder: &Path) -> Result<Self, ConformanceError> {
        for what in ["runtimetest", "rootfs-amd64.tar.gz", "validation"] {
            if !folder.join(what).exists() {
                return Err(ConformanceError::NotBuilt {
                    folder: folder.to_owned(),
                    what,
                });
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The names of the tests that contain `filter`, in order.
    ///
    /// # Errors
    /// The folder cannot be read, or holds none.
    pub fn tests(&self, filter: &str) -> Result<Vec<String>, ConformanceError> {
        let folder = self.folder.join("validation");
        let mut names: Vec<String> = fs::read_dir(&folder)
            .map_err(ConformanceError::file(&folder))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.contains(filter) && self.program(name).exists())
            .collect();
        names.sort();
        if names.is_empty() {
            return Err(ConformanceError::NotBuilt {
                folder,
                what: "test program (NAME/NAME.t)",
            });
        }
        Ok(names)
    }

    /// Runs one test against a runtime, and removes the containers that it leaves. What it prints is kept in
    /// `output`.
    ///
    /// # Errors
    /// It does not start, or `output` cannot be written.
    pub fn run(&self, test: &str, runtime: &Runtime, output: &Path) -> Result<Verdict, ConformanceError> {
        let program = self.program(test);
        let bundles = tempfile::Builder::new()
            .prefix("conformance.")
            .tempdir_in(BUNDLES)
            .map_err(ConformanceError::file(Path::new(BUNDLES)))?;
        let stdout = File::create(output).map_err(ConformanceError::file(output))?;
        let mut child = Command::new(&program)
            .current_dir(&self.folder)
            .env("RUNTIME", &runtime.program)
            .env("TMPDIR", bundles.path())
            .stdin(Stdio::null())
            .stderr(stdout.try_clone().map_err(ConformanceError::file(output))?)
            .stdout(stdout)
            .spawn()
            .map_err(ConformanceError::file(&program))?;
        let ended = processes::wait_for_end(nix::unistd::Pid::from_raw(child.id().cast_signed()), LIMIT);
        if !ended {
            child.kill().map_err(ConformanceError::file(&program))?;
        }
        let status = child.wait().map_err(ConformanceError::file(&program))?;
        runtime.remove_containers()?;
        let printed = fs::read(output).map_err(ConformanceError::file(output))?;
        Ok(if ended {
            tap::verdict(&String::from_utf8_lossy(&printed), status)
        } else {
            Verdict::Failed(format!("it had not ended after {} s", LIMIT.as_secs()))
        })
    }

    fn program(&self, test: &str) -> PathBuf {
        self.folder
            .join("validation")
            .join(test)
            .join(format!("{test}.t"))
    }
}

impl Runtime {
    /// The runtime called `name` whose program is `program`.
    ///
    /// # Errors
    /// There is no such program.
    pub fn find(name: &str, program: PathBuf) -> Result<Self, ConformanceError> {
        fs::metadata(&program).map_err(ConformanceError::file(&program))?;
        Ok(Self {
            name: name.to_owned(),
            program,
        })
    }

    fn remove_containers(&self) -> Result<(), ConformanceError> {
        let listed = self.output(&["list", "--quiet"])?;
        for id in String::from_utf8_lossy(&listed).lines() {
            self.output(&["delete", "--force", id])?;
        }
        Ok(())
    }

    fn output(&self, arguments: &[&str]) -> Result<Vec<u8>, ConformanceError> {
        let output = Command::new(&self.program).args(arguments).output();
        Ok(output.map_err(ConformanceError::file(&self.program))?.stdout)
    }
}
