//! Disks that come to a microVM with a container that joins it, and go with the last container that has them.

use std::{fs::File, os::fd::AsFd};

use bulkhead_vmm::control::{ATTACHED_DISKS, Request, Response};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{Agent, AgentError, MachineError, Owner, StateError, VmmControl, machine::open_disk};
use crate::oci::Disk;

/// How many disks a pod's microVM can be given while it runs. Each slot costs the guest's boot 0.2 % of its instructions, also
/// one that stays empty.
pub const DISK_SLOTS: u8 = 4;

/// Why the disks of a microVM that runs cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The sandbox's state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The device cannot be opened.
    #[error(transparent)]
    Device(#[from] MachineError),
    /// The VMM did not take it.
    #[error("{field}: {}: {message}", node.display())]
    Refused {
        /// The field of `config.json` that names it.
        field: String,
        /// Its node.
        node: std::path::PathBuf,
        /// What the VMM, or the connection to it, said.
        message: String,
    },
    /// The VMM keeps a disk that the guest has let go of.
    #[error("take the disk {disk} away: {message}")]
    Kept {
        /// The disk's name.
        disk: String,
        /// What the VMM, or the connection to it, said.
        message: String,
    },
    /// The guest did not let go of its disks.
    #[error("take disks away from the guest: {0}")]
    Agent(#[from] AgentError),
}

/// The right to change which disks a sandbox has: of one process at a time, so that nobody takes away a disk that another one
/// is about to use.
pub struct Disks {
    control: VmmControl,
    _lock: File,
}

impl Disks {
    /// Waits until nobody else changes them. Called inside a tokio runtime.
    ///
    /// # Errors
    /// The sandbox has gone.
    pub async fn of(owner: &Owner) -> Result<Self, DiskError> {
        // Not the folder itself, which is locked by who removes the sandbox: that does not wait for a guest.
        let config = owner.folder.open_config()?;
        let failed =
            |errno: Errno| DiskError::State(StateError::io("lock", owner.folder.path())(errno.into()));
        let lock = match flock(&config, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let wait = move || flock(config.as_fd(), FlockOperation::LockExclusive).map(|()| config);
                let waited = tokio::task::spawn_blocking(wait).await;
                waited.unwrap_or(Err(Errno::CANCELED)).map_err(failed)?
            }
            locked => locked.map(|()| config).map_err(failed)?,
        };
        Ok(Self {
            control: VmmControl::of(&owner.folder)?,
            _lock: lock,
        })
    }

    /// Gives the microVM a disk, unless it has it. Returns the slot in which the guest finds it.
    ///
    /// # Errors
    /// The device cannot be opened, or no slot is left for it.
    pub async fn attach(&self, disk: &Disk) -> Result<u32, DiskError> {
        let device = open_disk(disk)?;
        let request = Request::AttachBlock {
            id: disk.id.clone(),
            read_only: disk.read_only,
        };
        let refused = |message| DiskError::Refused {
            field: disk.field.clone(),
            node: disk.node.clone(),
            message,
        };
        match self.control.ask_with(&request, Some(device.as_fd())).await {
            Ok(Response::Attached { slot }) => {
                tracing::debug!(disk = disk.id, slot, "disk attached");
                u32::try_from(slot).map_err(|error| refused(error.to_string()))
            }
            other => Err(refused(message(other))),
        }
    }

    /// Takes the disks away that no container has any more.
    ///
    /// # Errors
    /// The guest or the VMM said no.
    pub async fn release(&self, agent: &Agent) -> Result<(), DiskError> {
        let disks = attached(&self.control).await;
        if disks.is_empty() {
            return Ok(());
        }
        for disk in agent.release_disks(disks).await? {
            let request = Request::DetachBlock { id: disk.clone() };
            match self.control.ask(&request).await {
                Ok(Response::Done) => tracing::debug!(disk, "disk detached"),
                other => {
                    let message = message(other);
                    return Err(DiskError::Kept { disk, message });
                }
            }
        }
        Ok(())
    }
}

/// The disks that have come to a microVM since its start, and have not gone again. A VMM that does not say has none.
pub async fn attached(control: &VmmControl) -> Vec<String> {
    let Ok(Response::Metrics(mut metrics)) = control.ask(&Request::Metrics {}).await else {
        return Vec::new();
    };
    let disks = metrics.remove(ATTACHED_DISKS).unwrap_or_default();
    serde_json::from_value(disks).unwrap_or_default()
}

fn message(answer: std::io::Result<Response>) -> String {
    match answer {
        Ok(Response::Error { message }) => message,
        Ok(other) => format!("the VMM answered {other:?}"),
        Err(error) => format!("the VMM does not answer: {error}"),
    }
}
