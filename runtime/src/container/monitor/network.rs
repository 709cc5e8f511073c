//! The network namespace in which a monitor lives. Callers find it by the monitor's pid, as `/proc/<pid>/ns/net`.

use std::{fs::File, io, os::fd::AsFd, path::PathBuf};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{oci::Namespace, sandbox::Owner};

/// Why a network namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The file that `config.json` names is not there, or no network namespace.
    #[error("network namespace {}: {source}", path.display())]
    Join {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel made none.
    #[error("make a network namespace: {0}")]
    Make(io::Error),
}

/// Moves the calling process, which has one thread, to the network namespace that `config.json` asks for: one that is
/// there, a new one, or, without an entry of that type, none. In a sandbox that has an owner it is that owner's, unless
/// another is named.
///
/// # Errors
/// See [`NetworkError`].
pub fn enter(wanted: Option<&Namespace>, owner: Option<&Owner>) -> Result<(), NetworkError> {
    if let Some(owner) = owner
        && wanted.is_none_or(|namespace| namespace.path.is_empty())
    {
        return join(format!("/proc/{}/ns/net", owner.state.monitor.pid).into());
    }
    let Some(namespace) = wanted else {
        tracing::warn!(
            "config.json has no network namespace (linux.namespaces), and a virtual machine cannot share the \
             host's: the container has a loopback interface only"
        );
        return Ok(());
    };
    if namespace.path.is_empty() {
        return unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetworkError::Make(e.into()));
    }
    join(PathBuf::from(&namespace.path))
}

fn join(path: PathBuf) -> Result<(), NetworkError> {
    let joined = File::open(&path).and_then(|file| Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?));
    joined.map_err(|source| NetworkError::Join { path, source })
}
