//! Room in the machine for what the limits of its containers let them use.

use serde::Deserialize;
use serde_json::Value;

use super::Monitor;
use crate::{
    oci::{FieldError, Resources, drop_host_resources},
    sandbox::{
        Cgroup, CgroupError, Growth, GrowthError, host_memory_of, memory_mib_for, most_memory_mib, vcpus_of,
    },
};

const MIB: u64 = 1 << 20;

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// A limit makes no sense, or is beyond what the machine can have.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The machine does not grow.
    #[error(transparent)]
    Growth(#[from] GrowthError),
    /// The host's cgroup does not let it.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No thread can be had to change it.
    #[error("change the cgroup: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Whether a container must get the limit of memory that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// More than the machine can have is an error.
    Strict,
    /// More than the machine can have limits nothing.
    Lenient,
}

impl Monitor {
    /// Sees to it that the machine has what the limits of all its containers come to, of which this container's are, or become,
    /// `resources`, as `linux.resources` has them. The machine's cgroup on the host gets it first.
    ///
    /// # Errors
    /// See [`RoomError`]. The machine may have grown by a part of it.
    pub(super) async fn make_room(
        &self,
        growth: &Growth,
        cgroup: &Cgroup,
        mut resources: Value,
        memory_limit: MemoryLimit,
    ) -> Result<(), RoomError> {
        let own = Resources::deserialize(&resources)
            .map_err(|error| FieldError::new("linux.resources", error.to_string()))?;
        let limit = own.memory.limit.and_then(|limit| u64::try_from(limit).ok());
        let limit = limit.filter(|limit| *limit > 0);
        if limit.is_none() && vcpus_of(&own.cpu).is_none() {
            return Ok(());
        }
        drop_host_resources(&mut resources);
        let sum = growth
            .demand(self.folder.id().as_str(), resources.to_string().into_bytes())
            .await?;
        if let Some(limit) = limit {
            let memory = growth.memory().await?;
            // The VMM's word is not enough to let it have more of the host.
            let most_mib = memory.most_mib.min(most_memory_mib(&self.config));
            if memory_limit == MemoryLimit::Strict && limit > u64::from(most_mib) * MIB {
                let problem = format!(
                    "{limit} bytes are more than the virtual machine can have, which are {most_mib} MiB \
                     (max_memory_mib; by default the host's memory)"
                );
                return Err(FieldError::new("linux.resources.memory.limit", problem).into());
            }
            let wanted_mib = memory_mib_for(&self.config, sum.memory).min(most_mib);
            if wanted_mib > memory.present_mib {
                tracing::debug!(from = memory.present_mib, to = wanted_mib, "memory grows");
                if let Some(bytes) = host_memory_of(&self.config, wanted_mib) {
                    let cgroup = cgroup.clone();
                    // systemd may take its time.
                    tokio::task::spawn_blocking(move || cgroup.allow_memory(bytes)).await??;
                }
                growth.add_memory(wanted_mib).await?;
            }
        }
        Ok(growth.processors(sum.processors).await?)
    }
}
