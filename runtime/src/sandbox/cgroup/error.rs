//! Why a cgroup cannot be made, limited or removed.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::systemd::SystemdError;

/// Why a cgroup cannot be made, limited or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has no cgroup v2.
    #[error(
        "no cgroup v2 is mounted on this host: mount one, for example at /sys/fs/cgroup: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NoVersion2,
    /// `linux.cgroupsPath` means nothing to the driver.
    #[error("linux.cgroupsPath: {path:?} {problem}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There are processes in it already, which a removal would kill.
    #[error("cgroup {}: there are processes in it; give the container one of its own by linux.cgroupsPath", .0.display())]
    InUse(PathBuf),
    /// The host cannot keep a limit.
    #[error(
        "{field}: needs {file} of the cgroup controller {controller:?}, which the host does not offer below {}",
        parent.display()
    )]
    NoController {
        /// The field of `config.json`.
        field: String,
        /// The file that is not there.
        file: &'static str,
        /// The controller that it is of.
        controller: &'static str,
        /// The cgroup above.
        parent: PathBuf,
    },
    /// The kernel did not take a limit.
    #[error("{field}: the host does not take {value:?} for {file}: {source}")]
    Limit {
        /// The field of `config.json`.
        field: String,
        /// The file.
        file: &'static str,
        /// What was written to it.
        value: String,
        /// What came of it.
        source: io::Error,
    },
    /// The tree said no.
    #[error("cgroup: {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// systemd said no.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

impl CgroupError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
