//! Where a container's microVM is: its own, or another container's.

use std::path::Path;

use crate::{
    config::Config,
    oci::{FieldError, Spec, Vm},
    sandbox::{
        Birthplace, Cgroup, CgroupError, Driver, Id, Limits, Owner, OwnerError, Size, cgroup_mount_point,
    },
};

/// Why there is no place for a container.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The sandbox that it names cannot be joined.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// It wants a microVM of its own making.
    #[error(
        "vm: the container joins the microVM of sandbox {sandbox}, which runs already; remove it from config.json"
    )]
    Machine {
        /// The sandbox's owner.
        sandbox: Id,
    },
    /// The host's cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A limit that cannot be kept there.
    #[error("config.json: {0}")]
    Limit(#[from] FieldError),
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
    /// Its annotations name a sandbox that cannot be joined, or its cgroup is not to be had.
    pub fn of(driver: Driver, spec: &Spec, id: &Id, root: &Path) -> Result<Self, PlaceError> {
        if let Some(owner) = Owner::named_by(&spec.annotations, root)? {
            if spec.vm.as_ref().is_some_and(|vm| *vm != Vm::default()) {
                return Err(PlaceError::Machine {
                    sandbox: owner.state.id.clone(),
                });
            }
            return Ok(Self::Joined(Box::new(owner)));
        }
        let cgroup = Cgroup::place(driver, &cgroup_mount_point()?, id, &spec.linux.cgroups_path)?;
        cgroup.ensure_free()?;
        Ok(Self::Own(cgroup))
    }

    /// What the container limits on the host.
    ///
    /// # Errors
    /// The first field that cannot be honoured there.
    pub fn limits(&self, config: &Config, spec: &Spec) -> Result<Limits, PlaceError> {
        let resources = &spec.linux.resources;
        Ok(match self {
            // Those of a pod are above its cgroup, and are not for this container to have.
            Self::Own(_) if spec.is_pod() => Limits::default(),
            Self::Own(_) => Limits::of(resources)?.with_memory(config, Size::of(config, spec).memory_mib),
            Self::Joined(_) => Limits::of_joined(resources)?,
        })
    }

    /// Opens the cgroup in which the container's monitor is to be born; makes it, if it is the container's own.
    ///
    /// # Errors
    /// The tree or systemd said no.
    pub fn birthplace(&self, limits: &Limits) -> Result<Birthplace, PlaceError> {
        Ok(match self {
            Self::Own(cgroup) => cgroup.create(limits)?,
            Self::Joined(owner) => owner.state.cgroup.open()?.into(),
        })
    }

    /// The container's own cgroup.
    pub fn own(&self) -> Option<&Cgroup> {
        match self {
            Self::Own(cgroup) => Some(cgroup),
            Self::Joined(_) => None,
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
