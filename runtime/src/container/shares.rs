//! Namespaces of other containers in the same sandbox, which `config.json` names by the stand-ins of those containers.

use std::path::PathBuf;

use crate::{
    oci::Bundle,
    sandbox::{Id, Owner, StateError, StateFolder},
};

/// A namespace that cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It is none of a container in the sandbox.
    #[error(
        "{}: linux.namespaces[{index}].path: {path} is not a namespace of a container in the same sandbox, and a \
         virtual machine cannot join one of the host; remove it from config.json",
        file.display()
    )]
    Foreign {
        /// The `config.json`.
        file: PathBuf,
        /// Its place in `linux.namespaces`.
        index: usize,
        /// As it is named.
        path: String,
    },
    /// The state of another container.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Namespaces that belong to other containers: the place in `linux.namespaces`, and whose it is.
pub type Shares = Vec<(usize, Id)>;

/// Of each namespace that belongs to another container: its place in `linux.namespaces`, and that container.
///
/// # Errors
/// See [`ShareError`].
pub fn shared_namespaces(bundle: &Bundle, owner: Option<&Owner>) -> Result<Shares, ShareError> {
    let mut shares = Vec::new();
    for (index, namespace) in bundle.spec.linux.namespaces.iter().enumerate() {
        if !namespace.is_of_another() {
            continue;
        }
        let member = match (owner, namespace.process()) {
            (Some(owner), Some(pid)) => member(owner, pid)?,
            _ => None,
        };
        let id = member.ok_or_else(|| ShareError::Foreign {
            file: bundle.folder.join("config.json"),
            index,
            path: namespace.path.clone(),
        })?;
        shares.push((index, id));
    }
    Ok(shares)
}

/// The container in the sandbox whose stand-in has that pid.
fn member(owner: &Owner, pid: i32) -> Result<Option<Id>, StateError> {
    if owner.state.monitor.pid == pid {
        return Ok(Some(owner.state.id.clone()));
    }
    for folder in StateFolder::all(owner.folder.root())? {
        // One damaged record is no reason not to find another.
        if let Ok(Some(state)) = folder.load()
            && state.sandbox == owner.state.id
            && state.current_pid() == pid
        {
            return Ok(Some(state.id));
        }
    }
    Ok(None)
}
