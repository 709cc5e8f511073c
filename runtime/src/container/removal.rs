//! Removing all that a container has on the host.

use std::{io, time::Duration};

use super::{Place, hooks};
use crate::{
    logging,
    sandbox::{EvictionError, Id, Owner, State, StateError, StateFolder, Status, remove_redirects},
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
    // Of two removals at once the second finds nothing, not half of what there was.
    let Some(_lock) = folder.lock()? else {
        return match force {
            true => Ok(true),
            false => Err(StateError::Missing(folder.id().clone()).into()),
        };
    };
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
        Ok(None) | Err(_) => {
            return Ok(match folder.load_cgroup()? {
                Some(cgroup) => dispose_of(folder, &Place::Own(cgroup)),
                None => with_poststop(folder, || is_clean(folder.remove())),
            });
        }
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
    if state.owns_sandbox() {
        return Ok(dispose_of(folder, &Place::Own(state.cgroup)));
    }
    kill_monitor(&state)?;
    match Owner::of(&state, folder)? {
        Some(owner) => Ok(dispose_of(folder, &Place::Joined(Box::new(owner)))),
        // The sandbox has gone, and with it all that the container had there.
        None => Ok(with_poststop(folder, || is_clean(folder.remove()))),
    }
}

/// A monitor that has written its last record is about to end as its workload did, and is not to be killed on the way.
fn wait_for_monitor(state: &State) -> Result<(), RemovalError> {
    let waited = state.monitor.wait_for_end(LAST_STEPS);
    waited.map_err(|source| RemovalError::Monitor {
        id: state.id.to_string(),
        source,
    })
}

/// The monitor of a container that has joined a sandbox cannot be killed by the cgroup, which is the sandbox's.
fn kill_monitor(state: &State) -> Result<(), RemovalError> {
    state.monitor.kill().map_err(|source| RemovalError::Monitor {
        id: state.id.to_string(),
        source,
    })?;
    wait_for_monitor(state)
}

/// Removes all that a container has, as [`clean_up`] does, and then runs the poststop hooks.
pub fn dispose_of(folder: &StateFolder, place: &Place) -> bool {
    with_poststop(folder, || clean_up(folder, place))
}

/// Removes a container, and then runs the poststop hooks of what was there before.
fn with_poststop(folder: &StateFolder, removal: impl FnOnce() -> bool) -> bool {
    let record = folder.load().ok().flatten();
    let hooks = hooks::of(folder);
    let clean = removal();
    if let Some(record) = record {
        hooks::run_poststop(&hooks, &record);
    }
    clean
}

/// Removes all that a container has on the host and in a sandbox that it joined, killing what still runs. Its monitor is not
/// there any more, or is killed with the container's own cgroup. What cannot be removed is said, and makes the answer false.
pub fn clean_up(folder: &StateFolder, place: &Place) -> bool {
    let cleared = match place {
        Place::Own(cgroup) => is_clean(cgroup.remove()) & is_network_clean(folder),
        Place::Joined(owner) => is_clean(evict(owner, folder.id())),
    };
    is_clean(folder.remove()) && cleared
}

/// Takes away what a monitor that was killed has left in the network namespace. One that says that the container is stopped
/// has seen to it.
fn is_network_clean(folder: &StateFolder) -> bool {
    match folder.load() {
        Ok(Some(state)) if state.status != Status::Stopped => state
            .network
            .is_none_or(|namespace| is_clean(remove_redirects(&namespace))),
        _ => true,
    }
}

fn evict(owner: &Owner, id: &Id) -> Result<(), EvictionError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| EvictionError::Storage(error.into()))?;
    runtime.block_on(owner.evict(id))
}

fn is_clean<E: std::error::Error>(result: Result<(), E>) -> bool {
    result.map_err(|error| logging::report(&error, &[])).is_ok()
}
