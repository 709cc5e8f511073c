//! `bulkhead delete`

use std::process::ExitCode;

use clap::Args;

use super::{Error, Global, Status};
use crate::{
    container::clean_up,
    sandbox::{Cgroup, Id, StateError, StateFolder, Status as ContainerStatus, cgroup_mount_point},
};

/// Remove what a container has left
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill the container if it runs; a container that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

impl Delete {
    pub fn execute(self, global: &Global) -> Status {
        let id = Id::try_from(self.id)?;
        let folder = match StateFolder::open(&global.root, &id) {
            Err(StateError::Missing(_)) if self.force => return Ok(ExitCode::SUCCESS),
            folder => folder?,
        };
        let cgroup = match folder.load() {
            Ok(Some(record)) => {
                if !self.force && record.current_status() != ContainerStatus::Stopped {
                    return Err(Error::NotStopped(id.to_string()));
                }
                Cgroup::at(record.cgroup)
            }
            Ok(None) if !self.force => return Err(Error::BeingCreated(id.to_string())),
            // Whoever was making the container was killed before it could say more.
            Ok(None) => Cgroup::place(&cgroup_mount_point()?, &id, ""),
            Err(_) if self.force => Cgroup::place(&cgroup_mount_point()?, &id, ""),
            Err(error) => return Err(error.into()),
        };
        Ok(if clean_up(&folder, &cgroup) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
