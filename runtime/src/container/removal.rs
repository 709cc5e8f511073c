//! Removing all that a container has on the host.

use std::{io, time::Duration};

use super::hooks;
use crate::{
    logging,
    oci::Spec,
    sandbox::{
        Cgroup, CgroupError, State, StateError, StateFolder, Status, cgroup_mount_point, remove_redirects,
    },
};

/// How long a monitor may take to end when its container has.
const LAST_STEPS: Duration = Duration::from_secs(10);

/// Why a container is not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// Its program runs.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// The container.
        id: String,
        /// How far it is.
        status: Status,
    },
    /// Its state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host's cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its monitor cannot be waited for.
    #[error("wait for the monitor of container {id}: {source}")]
    Monitor {
        /// The container.
        id: String,
        /// Why.
        source: io::Error,
    },
}

/// Removes a container that is created or stopped; with `force`, whatever its state. What cannot be removed is said, and
/// makes the answer false.
///
/// # Errors
/// See [`RemovalError`].
pub fn remove(folder: &StateFolder, force: bool) -> Result<bool, RemovalError> {
    let state = match folder.load() {
        Ok(Some(state)) => state,
        Ok(None) if !force => {
            return Err(RemovalError::NotStopped {
                id: folder.id().to_string(),
                status: Status::Creating,
            });
        }
        Err(error) if !force => return Err(error.into()),
        // Whoever was making the container was killed before it could say more.
        Ok(None) | Err(_) => return Ok(dispose_of(folder, &configured_cgroup(folder)?)),
    };
    match state.current_status() {
        Status::Stopped => wait_for_monitor(&state)?,
        Status::Created => {}
        _ if force => {}
        status => {
            return Err(RemovalError::NotStopped {
                id: state.id.to_string(),
                status,
            });
        }
    }
    Ok(dispose_of(folder, &Cgroup::at(state.cgroup)))
}

/// A monitor that has written its last record is about to end as its workload did, and is not to be killed on the way.
fn wait_for_monitor(state: &State) -> Result<(), RemovalError> {
    let waited = state.monitor.wait_for_end(LAST_STEPS);
    waited.map_err(|source| RemovalError::Monitor {
        id: state.id.to_string(),
        source,
    })
}

/// Where the cgroup is of a container that has no record yet.
fn configured_cgroup(folder: &StateFolder) -> Result<Cgroup, RemovalError> {
    let spec = folder
        .load_config()
        .ok()
        .and_then(|document| Spec::view(&document).ok())
        .unwrap_or_default();
    let mount = cgroup_mount_point()?;
    Ok(Cgroup::place(&mount, folder.id(), &spec.linux.cgroups_path))
}

/// Removes all that a sandbox has on the host, as [`clean_up`] does, and then runs the poststop hooks.
pub fn dispose_of(folder: &StateFolder, cgroup: &Cgroup) -> bool {
    let record = folder.load().ok().flatten();
    let hooks = hooks::of(folder);
    let clean = clean_up(folder, cgroup);
    if let Some(record) = record {
        hooks::run_poststop(&hooks, &record);
    }
    clean
}

/// Removes all that a sandbox has on the host, killing what still runs. What cannot be removed is said.
pub fn clean_up(folder: &StateFolder, cgroup: &Cgroup) -> bool {
    let mut clean = true;
    if let Err(error) = cgroup.remove() {
        logging::report(&error, &[]);
        clean = false;
    }
    // A monitor that says that the container is stopped has seen to its network.
    if let Ok(Some(state)) = folder.load()
        && state.status != Status::Stopped
        && let Some(namespace) = state.network
        && let Err(error) = remove_redirects(&namespace)
    {
        logging::report(&error, &[]);
        clean = false;
    }
    if let Err(error) = folder.remove() {
        logging::report(&error, &[]);
        clean = false;
    }
    clean
}
