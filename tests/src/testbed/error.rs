//! What can go wrong with the testbed itself, as opposed to a test that fails in it.

use std::io;
use std::path::PathBuf;

/// A failure of the testbed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be made, read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that the testbed needs did not start.
    #[error("cannot run {program}: {source}; `make deps` installs what the testbed needs")]
    Program {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program that the testbed needs failed.
    #[error("{command}: {status}\n{output}")]
    Failed {
        /// The program with its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// No kernel package for L1.
    #[error("no package linux-image-6.12.*-cloud-amd64 in apt's lists; `apt-get update` first")]
    NoKernelPackage,
    /// The kernel's image has not the form that is expected.
    #[error("{}: {what}", path.display())]
    KernelImage {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// QEMU refused a command or ended.
    #[error("QEMU: {what}\n{output}")]
    Qemu {
        /// What happened.
        what: String,
        /// The end of what QEMU and L1's console printed.
        output: String,
    },
    /// L1 did not come up.
    #[error("L1 did not come up: {what}\n{console}")]
    Boot {
        /// What happened.
        what: String,
        /// The end of L1's console.
        console: String,
    },
    /// L1 is gone. The command in it may have done anything; try again in a new L1.
    #[error("lost the connection to L1: {0}")]
    Lost(#[source] io::Error),
    /// The agent in L1 could not start the command.
    #[error("{0}")]
    Command(String),
    /// The name is already used by another L1.
    #[error("an L1 named {0} is up already")]
    NameInUse(String),
    /// No such L1.
    #[error("no L1 named {name} is up; start it with `bulkhead-testbed up --name {name}`")]
    NotUp {
        /// The name.
        name: String,
    },
}

impl Error {
    /// For `map_err`: what failed is the file at `path`.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
