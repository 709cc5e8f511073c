//! Where a container's microVM is: its own, or another container's.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use crate::{
    oci::Spec,
    sandbox::{Cgroup, CgroupError, Id, Owner, OwnerError, cgroup_mount_point},
};

/// Why there is no place for a container.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The sandbox that it names cannot be joined.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The host's cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The cgroup of the sandbox that it joins.
    #[error("cgroup of sandbox {sandbox}: {source}")]
    Joined {
        /// The sandbox's owner.
        sandbox: Id,
        /// Why it cannot be opened.
        source: io::Error,
    },
}

/// Where a container's microVM is.
#[derive(Debug, Clone)]
pub enum Place {
    /// It has its own, with this cgroup.
    Own(Cgroup),
    /// It has joined the microVM of another container.
    Joined(Box<Owner>),
}

impl Place {
    /// Where a container that is to be created belongs.
    ///
    /// # Errors
    /// Its annotations name a sandbox that cannot be joined.
    pub fn of(spec: &Spec, id: &Id, root: &Path) -> Result<Self, PlaceError> {
        if let Some(owner) = Owner::named_by(&spec.annotations, root)? {
            return Ok(Self::Joined(Box::new(owner)));
        }
        let mount = cgroup_mount_point()?;
        Ok(Self::Own(Cgroup::place(&mount, id, &spec.linux.cgroups_path)))
    }

    /// Opens the cgroup in which the container's monitor is to be born; makes it, if it is the container's own.
    ///
    /// # Errors
    /// The tree said no.
    pub fn open_cgroup(&self) -> Result<OwnedFd, PlaceError> {
        match self {
            Self::Own(cgroup) => Ok(cgroup.create()?),
            Self::Joined(owner) => {
                let opened = File::open(&owner.state.cgroup);
                opened.map(OwnedFd::from).map_err(|source| PlaceError::Joined {
                    sandbox: owner.state.id.clone(),
                    source,
                })
            }
        }
    }

    /// The owner of the sandbox, if that is another container.
    pub fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Own(_) => None,
            Self::Joined(owner) => Some(owner),
        }
    }
}
