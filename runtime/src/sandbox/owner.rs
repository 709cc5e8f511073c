//! Sandboxes that are joined: which one a container's annotations name, and leaving it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{
    Agent, AgentError, DiskError, Disks, GuestSocket, Id, MountNamespace, SharedFiles, State, StateError,
    StateFolder, Status, StorageError,
};
use crate::oci::{MEMBER, sandbox_of};

/// How long a guest may take to end a container and let go of it.
const EVICTION: Duration = Duration::from_secs(10);

/// The container whose monitor owns the microVM that another container joins.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its state folder.
    pub folder: StateFolder,
    /// Its record.
    pub state: State,
}

/// Why a sandbox cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// There is none of that name.
    #[error(
        "annotations.{annotation}: no container {sandbox} owns a sandbox here; create it first, or remove the annotation"
    )]
    Missing {
        /// The annotation that names it.
        annotation: &'static str,
        /// As it is named.
        sandbox: String,
    },
    /// It does not run.
    #[error("annotations.{annotation}: sandbox {sandbox} is {status}, so that no container can join it")]
    NotRunning {
        /// The annotation that names it.
        annotation: &'static str,
        /// As it is named.
        sandbox: String,
        /// What it is.
        status: Status,
    },
    /// The state of another container.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why a container did not leave its sandbox whole.
#[derive(Debug, thiserror::Error)]
pub enum EvictionError {
    /// The guest did not end it in time.
    #[error("container {0} was not ended and removed in its guest within {limit} s", limit = EVICTION.as_secs())]
    TimedOut(Id),
    /// The agent said no.
    #[error("remove container {id} in its guest: {source}")]
    Agent {
        /// The container.
        id: Id,
        /// Why.
        source: AgentError,
    },
    /// The sandbox's state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its disks are still in the guest.
    #[error("container {id}: {source}")]
    Disks {
        /// The container.
        id: Id,
        /// Why.
        source: DiskError,
    },
    /// Its files are still in the shared folder.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Owner {
    /// The owner of the sandbox that a container's annotations say it belongs to; none if they say nothing of the kind. The
    /// sandbox is named by its owner's id, or by what the owner's annotations call it.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub fn named_by(annotations: &BTreeMap<String, String>, root: &Path) -> Result<Option<Self>, OwnerError> {
        let Some((annotation, sandbox)) = sandbox_of(annotations, Some(MEMBER)) else {
            return Ok(None);
        };
        let Some(owner) = Self::find(sandbox, root)? else {
            let sandbox = sandbox.to_owned();
            return Err(OwnerError::Missing { annotation, sandbox });
        };
        match owner.state.current_status() {
            Status::Created | Status::Running => Ok(Some(owner)),
            status => Err(OwnerError::NotRunning {
                annotation,
                sandbox: sandbox.to_owned(),
                status,
            }),
        }
    }

    fn find(sandbox: &str, root: &Path) -> Result<Option<Self>, StateError> {
        // Most often it is the owner's id.
        if let Ok(id) = sandbox.parse::<Id>()
            && let Ok(folder) = StateFolder::open(root, &id)
            && let Some(state) = folder.load()?
            && state.owns_sandbox()
        {
            return Ok(Some(Self { folder, state }));
        }
        let mut found = None;
        for folder in StateFolder::all(root)? {
            // One damaged record is no reason not to find another.
            let Ok(Some(state)) = folder.load() else { continue };
            let is_named = sandbox_of(&state.annotations, None).is_some_and(|(_, own)| own == sandbox);
            if state.owns_sandbox() && is_named {
                let is_alive = state.monitor.is_alive();
                found = Some(Self { folder, state });
                if is_alive {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The owner of the sandbox that a container has joined; none if it has gone.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn of(state: &State, folder: &StateFolder) -> Result<Option<Self>, StateError> {
        let folder = match folder.sibling(&state.sandbox) {
            Err(StateError::Missing(_)) => return Ok(None),
            folder => folder?,
        };
        let Some(state) = folder.load()? else {
            return Ok(None);
        };
        let owner = Self { folder, state };
        Ok(owner.state.monitor.is_alive().then_some(owner))
    }

    /// The owner's shared folder in its mount namespace. Nothing is done if the owner has ended.
    ///
    /// # Errors
    /// The namespace's, or the action's.
    pub fn in_shared_folder(
        &self,
        action: impl FnOnce(&Path) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        match MountNamespace::of(self.state.monitor)? {
            Some(namespace) => namespace.within(|| action(&self.folder.path().join(StateFolder::SHARED))),
            None => Ok(()),
        }
    }

    /// Has the guest kill what still runs of a container that joined, and takes away everything of it. What has gone is no
    /// error, and least of all the sandbox.
    ///
    /// # Errors
    /// See [`EvictionError`].
    pub async fn evict(&self, id: &Id) -> Result<(), EvictionError> {
        match tokio::time::timeout(EVICTION, self.evict_from_guest(id)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) if failure.is_end() => {}
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Err(EvictionError::TimedOut(id.clone())),
        }
        Ok(self.in_shared_folder(|shared| SharedFiles::withdraw(shared, id.as_str()))?)
    }

    async fn evict_from_guest(&self, id: &Id) -> Result<(), EvictionError> {
        let guest = GuestSocket::of(&self.folder)?;
        let agent_said = |source| EvictionError::Agent {
            id: id.clone(),
            source,
        };
        let agent = Agent::connect(&guest).await.map_err(agent_said)?;
        kill_and_delete(&agent, id.as_str()).await.map_err(agent_said)?;
        let disks_stay = |source| EvictionError::Disks {
            id: id.clone(),
            source,
        };
        let disks = Disks::of(self).await.map_err(disks_stay)?;
        disks.release(&agent).await.map_err(disks_stay)
    }
}

impl EvictionError {
    /// Whether the sandbox has gone.
    fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Agent {
                source: AgentError::Lost(_),
                ..
            } | Self::Disks {
                source: DiskError::Agent(AgentError::Lost(_)),
                ..
            }
        )
    }
}

async fn kill_and_delete(agent: &Agent, id: &str) -> Result<(), AgentError> {
    // Refused is what there is nothing of.
    match agent.signal(id, libc::SIGKILL.unsigned_abs(), true).await {
        Err(AgentError::Refused(_)) => {}
        signalled => signalled?,
    }
    match agent.wait(id).await {
        Err(AgentError::Refused(_)) => return Ok(()),
        ended => ended?,
    };
    agent.delete(id).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::FAMILIES;
    use crate::sandbox::{Cgroup, Driver, NewState, ProcessIdentity};

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pairs.collect()
    }

    /// Puts a container on disk that this process stands in for.
    fn container(
        root: &Path,
        id: &str,
        sandbox: &str,
        annotations: BTreeMap<String, String>,
        status: Status,
    ) {
        let id: Id = id.parse().expect("valid id");
        let folder = StateFolder::create(root, &id).expect("free");
        let cgroup = Cgroup::place(Driver::Cgroupfs, Path::new("/c"), &id, "").expect("a place");
        let mut state = State::creating(NewState {
            id,
            sandbox: sandbox.parse().expect("valid id"),
            monitor: ProcessIdentity::current().expect("this process has an identity"),
            bundle: "/bundle".into(),
            rootfs: "/bundle/rootfs".into(),
            cgroup,
            network: None,
            annotations,
        });
        state.status = status;
        folder.save(&state).expect("writable");
    }

    #[test]
    fn a_sandbox_is_named_by_its_owners_id_or_by_its_own_name_in_both_families() {
        let root = tempfile::tempdir().expect("temporary folder");
        let root = root.path();
        let pod = annotations(&[(FAMILIES[1].0, "sandbox"), (FAMILIES[1].1, "pod-1")]);
        container(root, "infra", "infra", pod.clone(), Status::Running);
        container(root, "first", "infra", pod, Status::Running);
        for family in FAMILIES {
            for name in ["infra", "pod-1"] {
                let member = annotations(&[(family.0, "container"), (family.1, name)]);
                let owner = Owner::named_by(&member, root).expect("found").expect("joined");
                assert_eq!(owner.state.id.as_str(), "infra", "{name}");
            }
            let sandbox = annotations(&[(family.0, "sandbox"), (family.1, "infra")]);
            assert!(Owner::named_by(&sandbox, root).expect("no error").is_none());
        }
        assert!(
            Owner::named_by(&BTreeMap::new(), root)
                .expect("no error")
                .is_none()
        );
    }

    #[test]
    fn a_sandbox_that_cannot_be_joined_is_named() {
        let root = tempfile::tempdir().expect("temporary folder");
        let root = root.path();
        container(root, "ended", "ended", BTreeMap::new(), Status::Stopped);
        let error = |sandbox| {
            let member = annotations(&[(FAMILIES[0].0, "container"), (FAMILIES[0].1, sandbox)]);
            Owner::named_by(&member, root)
                .expect_err("not joined")
                .to_string()
        };
        assert_eq!(
            error("gone"),
            "annotations.io.kubernetes.cri.sandbox-id: no container gone owns a sandbox here; create it first, or \
             remove the annotation"
        );
        assert_eq!(
            error("ended"),
            "annotations.io.kubernetes.cri.sandbox-id: sandbox ended is stopped, so that no container can join it"
        );
    }
}
