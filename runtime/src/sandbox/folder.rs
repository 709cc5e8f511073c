//! The folder `<root>/<id>`: all that is on disk of a container but its bundle.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::retry_on_intr,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Cgroup, Id, State, state::VERSION};

/// Why the state of a container cannot be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another container has that id.
    #[error("container with given ID already exists: {0} is in use")]
    Exists(Id),
    /// No container has that id.
    #[error("container does not exist: {0}")]
    Missing(Id),
    /// The file system said no.
    #[error("state folder: {} {}: {source}", action, path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A file cannot be understood.
    #[error("{}: {problem}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl StateError {
    /// What went wrong with a file of a state folder.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// The folder of one container.
#[derive(Debug, Clone)]
pub struct StateFolder {
    id: Id,
    path: PathBuf,
}

impl StateFolder {
    /// The record.
    const STATE: &str = "state.json";
    /// The record while it is being written.
    const STATE_NEW: &str = ".state.json";
    /// The bundle's `config.json` as it was when the container was created.
    const CONFIG: &str = "config.json";
    /// The same while it is being written.
    const CONFIG_NEW: &str = ".config.json";
    /// Where the cgroup is, from before it is made: until there is a record, nothing else says so.
    const CGROUP: &str = "cgroup.json";
    /// The same while it is being written.
    const CGROUP_NEW: &str = ".cgroup.json";
    /// The monitor's socket.
    pub const MONITOR: &str = "monitor.sock";
    /// The Unix socket of the guest's vsock.
    pub const VSOCK: &str = "vsock.sock";
    /// The VMM's control socket.
    pub const CONTROL: &str = "control.sock";
    /// The Unix socket on which the sandbox's figures are served.
    pub const METRICS: &str = "metrics.sock";
    /// Where the folder that the guest shares is mounted, in the monitor's mount namespace only.
    pub const SHARED: &str = "shared";

    /// Takes the id: makes its folder below `root`.
    ///
    /// # Errors
    /// [`StateError::Exists`] when it is taken; else what the file system said.
    pub fn create(root: &Path, id: &Id) -> Result<Self, StateError> {
        let path = root.join(id.as_str());
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        match builder.create(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parents = DirBuilder::new().recursive(true).mode(0o711).create(root);
                parents.map_err(StateError::io("make", root))?;
                builder.create(&path)
            }
            result => result,
        }
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StateError::Exists(id.clone()),
            _ => StateError::Io {
                action: "make",
                path: path.clone(),
                source,
            },
        })?;
        Ok(Self { id: id.clone(), path })
    }

    /// The folder of a container that exists.
    ///
    /// # Errors
    /// [`StateError::Missing`] when it does not.
    pub fn open(root: &Path, id: &Id) -> Result<Self, StateError> {
        let path = root.join(id.as_str());
        if path.is_dir() {
            Ok(Self { id: id.clone(), path })
        } else {
            Err(StateError::Missing(id.clone()))
        }
    }

    /// The folder of all state folders.
    pub fn root(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The folder of another container that exists beside this one.
    ///
    /// # Errors
    /// [`StateError::Missing`] when it does not.
    pub fn sibling(&self, id: &Id) -> Result<Self, StateError> {
        Self::open(self.root(), id)
    }

    /// Every container below `root`.
    ///
    /// # Errors
    /// What the file system said; a `root` that does not exist has no containers.
    pub fn all(root: &Path) -> Result<Vec<Self>, StateError> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StateError::io("read", root)(e)),
        };
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StateError::io("read", root))?;
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                folders.push(Self {
                    id,
                    path: entry.path(),
                });
            }
        }
        folders.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        Ok(folders)
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container's id.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The folder itself, for paths that are too long for a Unix socket's address.
    ///
    /// # Errors
    /// What the file system said.
    pub fn handle(&self) -> Result<OwnedFd, StateError> {
        File::open(&self.path)
            .map(OwnedFd::from)
            .map_err(StateError::io("open", &self.path))
    }

    /// Has other removals wait until the answer is dropped. None if the container is not there any more, which may be by
    /// the removal that was waited for.
    ///
    /// # Errors
    /// What the file system said.
    pub fn lock(&self) -> Result<Option<File>, StateError> {
        let folder = match File::open(&self.path) {
            Ok(folder) => folder,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StateError::io("open", &self.path)(e)),
        };
        let locked = retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive));
        let links = locked
            .map_err(io::Error::from)
            .and_then(|()| Ok(folder.metadata()?.nlink()))
            .map_err(StateError::io("lock", &self.path))?;
        Ok((links > 0).then_some(folder))
    }

    /// Makes a folder in it.
    ///
    /// # Errors
    /// What the file system said.
    pub fn make(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.path.join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(StateError::io("make", &path))?;
        Ok(path)
    }

    /// Listens on a Unix socket of that name in it.
    ///
    /// # Errors
    /// What the file system said.
    pub fn listen(&self, name: &str) -> Result<UnixListener, StateError> {
        let folder = self.handle()?;
        UnixListener::bind(address(&folder, name)).map_err(StateError::io("make", &self.path.join(name)))
    }

    /// Connects to the Unix socket of that name in it.
    ///
    /// # Errors
    /// What the file system said; `ConnectionRefused` when nobody listens there any more.
    pub fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let folder = File::open(&self.path)?.into();
        UnixStream::connect(address(&folder, name))
    }

    /// Writes the record, so that a reader finds the old one or the new one, whole.
    ///
    /// # Errors
    /// What the file system said; the old record is then still there.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        self.replace(Self::STATE, Self::STATE_NEW, serde_json::to_vec(state))
    }

    /// Writes the bundle's checked `config.json`, whatever becomes of the bundle.
    ///
    /// # Errors
    /// What the file system said.
    pub fn save_config(&self, document: &Value) -> Result<(), StateError> {
        self.replace(Self::CONFIG, Self::CONFIG_NEW, serde_json::to_vec(document))
    }

    /// Writes where the cgroup is.
    ///
    /// # Errors
    /// What the file system said.
    pub fn save_cgroup(&self, cgroup: &Cgroup) -> Result<(), StateError> {
        self.replace(Self::CGROUP, Self::CGROUP_NEW, serde_json::to_vec(cgroup))
    }

    /// Reads where the cgroup is; none if none has been made.
    ///
    /// # Errors
    /// What the file system said, or a file that cannot be understood.
    pub fn load_cgroup(&self) -> Result<Option<Cgroup>, StateError> {
        self.read(Self::CGROUP)
    }

    fn replace(
        &self,
        name: &str,
        temporary: &str,
        text: serde_json::Result<Vec<u8>>,
    ) -> Result<(), StateError> {
        let temporary = self.path.join(temporary);
        let written = text
            .map_err(io::Error::from)
            .and_then(|text| File::create(&temporary)?.write_all(&text));
        written.map_err(StateError::io("write", &temporary))?;
        fs::rename(&temporary, self.path.join(name)).map_err(StateError::io("rename", &temporary))
    }

    /// Opens `config.json` as it was when the container was created: the same file as long as there is the container.
    ///
    /// # Errors
    /// What the file system said.
    pub fn open_config(&self) -> Result<File, StateError> {
        let file = self.path.join(Self::CONFIG);
        File::open(&file).map_err(StateError::io("open", &file))
    }

    /// Reads `config.json` as it was when the container was created.
    ///
    /// # Errors
    /// What the file system said, or a file that cannot be understood.
    pub fn load_config<T: DeserializeOwned>(&self) -> Result<T, StateError> {
        let file = self.path.join(Self::CONFIG);
        let text = fs::read(&file).map_err(StateError::io("read", &file))?;
        serde_json::from_slice(&text).map_err(|e| StateError::Damaged {
            file,
            problem: e.to_string(),
        })
    }

    /// Reads the record; none if the container was not far enough to have one.
    ///
    /// # Errors
    /// What the file system said, or a record that cannot be understood.
    pub fn load(&self) -> Result<Option<State>, StateError> {
        let Some(state) = self.read::<State>(Self::STATE)? else {
            return Ok(None);
        };
        if state.version != VERSION {
            let problem = format!(
                "is of version {}, this program writes version {VERSION}",
                state.version
            );
            return Err(StateError::Damaged {
                file: self.path.join(Self::STATE),
                problem,
            });
        }
        Ok(Some(state))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let file = self.path.join(name);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StateError::io("read", &file)(e)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| StateError::Damaged {
                file,
                problem: e.to_string(),
            })
    }

    /// Removes the folder. Only what this program puts there is removed, and no folder that has something in it:
    /// a user's files that happened to be mounted below are safe.
    ///
    /// # Errors
    /// What the file system said; nothing left to remove is no error.
    pub fn remove(&self) -> Result<(), StateError> {
        for name in [
            Self::CONFIG,
            Self::CONFIG_NEW,
            Self::CGROUP_NEW,
            Self::MONITOR,
            Self::METRICS,
            Self::VSOCK,
            Self::CONTROL,
            Self::STATE_NEW,
            // Last, as they say what else there was to remove.
            Self::CGROUP,
            Self::STATE,
        ] {
            remove(&self.path.join(name), |path| fs::remove_file(path))?;
        }
        remove(&self.path.join(Self::SHARED), |path| fs::remove_dir(path))?;
        remove(&self.path, |path| fs::remove_dir(path))
    }
}

fn remove(path: &Path, how: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), StateError> {
    match how(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// The address of a socket in a folder, by way of the folder's descriptor: its own path may be longer than a Unix socket's
/// address can be.
pub fn address(folder: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()).into()
}

#[cfg(test)]
mod tests;
