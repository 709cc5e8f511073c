//! The sandbox's cgroup on the host, in which its VMM, its monitor and the stand-ins of its processes live.
//!
//! Either driver makes a folder of the tree in the end, and everything else is done on that.

mod cpu_list;
mod error;
mod limits;
mod occupant;
mod placement;
mod systemd;
mod tree;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use error::CgroupError;
pub use limits::{Limits, memory_of as host_memory_of};
pub use placement::{Driver, Scope};
pub use tree::mount_point;

use super::Id;
use occupant::Occupant;

/// One sandbox's cgroup: where it is and who keeps it. That is recorded before it is made, so that it is found whatever
/// happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    path: PathBuf,
    /// Set if systemd keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
}

/// A cgroup that has been made, open, for processes to be born in it. A scope is kept in being by it until then.
#[derive(Debug)]
pub struct Birthplace {
    folder: OwnedFd,
    _occupant: Option<Occupant>,
}

impl AsFd for Birthplace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// A cgroup that has processes, and so stays.
impl From<OwnedFd> for Birthplace {
    fn from(folder: OwnedFd) -> Self {
        Self {
            folder,
            _occupant: None,
        }
    }
}

impl Birthplace {
    /// The open folder, when a process has been born in it.
    pub fn into_folder(self) -> OwnedFd {
        self.folder
    }
}

impl Cgroup {
    /// Where a container's cgroup is below `mount`, the tree's root, by `linux.cgroupsPath`, or by its id where that is empty.
    ///
    /// # Errors
    /// A path that the driver cannot read.
    pub fn place(driver: Driver, mount: &Path, id: &Id, cgroups_path: &str) -> Result<Self, CgroupError> {
        Ok(match driver {
            Driver::Cgroupfs => Self {
                path: mount.join(placement::folder(id, cgroups_path)?),
                scope: None,
            },
            Driver::Systemd => {
                let scope = placement::scope(id, cgroups_path)?;
                Self {
                    path: mount.join(scope.folder()),
                    scope: Some(scope),
                }
            }
        })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says whether it can be a sandbox's: one that exists with no process in it can, as one that does not.
    ///
    /// # Errors
    /// There are processes in it or below, which would be killed with it.
    pub fn ensure_free(&self) -> Result<(), CgroupError> {
        tree::ensure_free(&self.path)
    }

    /// Makes it with its limits, and opens it, for processes to be born in it. Blocks; not for asynchronous tasks.
    ///
    /// # Errors
    /// The host cannot keep a limit, or the tree or systemd said no. Nothing of it is left then.
    pub fn create(&self, limits: &Limits) -> Result<Birthplace, CgroupError> {
        // A scope vanishes with its last process: its first one stays until another can be born in it.
        let occupant = match &self.scope {
            None => {
                tree::make(&self.path)?;
                None
            }
            Some(scope) => Some(systemd::start(scope, limits)?),
        };
        let made = tree::limit(&self.path, &limits.settings()).and_then(|()| self.open());
        if made.is_err() {
            // The first error is the one to tell.
            let _ = self.remove();
        }
        Ok(Birthplace {
            folder: made?,
            _occupant: occupant,
        })
    }

    /// Opens it, for more processes to be born in it.
    ///
    /// # Errors
    /// It does not exist, or the tree said no.
    pub fn open(&self) -> Result<OwnedFd, CgroupError> {
        tree::open(&self.path)
    }

    /// Gives it other limits. Blocks; not for asynchronous tasks.
    ///
    /// # Errors
    /// The host cannot keep a limit, or the tree or systemd said no. Some of the new limits may hold then.
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(scope) = &self.scope {
            systemd::update(scope, limits)?;
        }
        tree::limit(&self.path, &limits.settings())
    }

    /// Lets it have that many bytes of memory at least. A limit that is as high, or none, stays. Blocks; not for asynchronous
    /// tasks.
    ///
    /// # Errors
    /// As of [`Cgroup::update`].
    pub fn allow_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        if tree::number(&self.path, "memory.max").is_none_or(|limit| limit >= bytes) {
            return Ok(());
        }
        self.update(&Limits::of_memory(bytes))
    }

    /// Kills every process in it, waits until they have gone, and removes it. None of that name is no error. Blocks; not for
    /// asynchronous tasks.
    ///
    /// # Errors
    /// The tree or systemd said no.
    pub fn remove(&self) -> Result<(), CgroupError> {
        // systemd has removed it if the scope has ended.
        if let Some(scope) = self.scope.as_ref().filter(|_| self.path.exists()) {
            tree::kill_all(&self.path)?;
            systemd::stop(scope)?;
        }
        tree::remove(&self.path)
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// It does not exist, or takes no processes.
    pub fn join(&self) -> Result<(), CgroupError> {
        tree::join(&self.path)
    }

    /// Moves the calling process to the nearest cgroup above that takes it, so that this one can be removed.
    ///
    /// # Errors
    /// None of them takes it.
    pub fn leave(&self) -> Result<(), CgroupError> {
        tree::leave(&self.path)
    }
}
