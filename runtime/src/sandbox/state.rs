//! What is known of a sandbox on disk: the folder `<root>/<id>` and the `state.json` in it.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{Id, process::ProcessIdentity};

/// The state's format. A state of another version is not touched.
const VERSION: u32 = 1;

/// How far a container has come, by the runtime specification's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The microVM or the container is being made.
    Creating,
    /// The container waits at its start gate.
    Created,
    /// The program runs.
    Running,
    /// The program has ended, or what carried it has.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        })
    }
}

/// A container's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    version: u32,
    /// The container.
    pub id: Id,
    /// Its stand-in on the host.
    pub monitor: ProcessIdentity,
    /// How far it had come when this was written.
    pub status: Status,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The root file system's folder.
    pub rootfs: PathBuf,
    /// The sandbox's cgroup on the host.
    pub cgroup: PathBuf,
    /// When it was created, in RFC 3339 with nanoseconds.
    pub created: String,
    /// From `config.json`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Why the state of a sandbox cannot be written, read or removed.
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
    /// The record cannot be understood.
    #[error("{}: {problem}", file.display())]
    Damaged {
        /// The record.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl StateError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// A container's first record: what is known when it is created.
#[derive(Debug, Clone)]
pub struct NewState {
    /// The container.
    pub id: Id,
    /// Its stand-in on the host.
    pub monitor: ProcessIdentity,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The root file system's folder.
    pub rootfs: PathBuf,
    /// The sandbox's cgroup on the host.
    pub cgroup: PathBuf,
    /// From `config.json`.
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// The record of a container that is being created now.
    pub fn creating(new: NewState) -> Self {
        let NewState {
            id,
            monitor,
            bundle,
            rootfs,
            cgroup,
            annotations,
        } = new;
        let created = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let status = Status::Creating;
        Self {
            version: VERSION,
            id,
            monitor,
            status,
            bundle,
            rootfs,
            cgroup,
            created,
            annotations,
        }
    }

    /// The status now: a container whose stand-in has gone is stopped, whatever the record says.
    pub fn current_status(&self) -> Status {
        if self.monitor.is_alive() {
            self.status
        } else {
            Status::Stopped
        }
    }
}

/// The folder of one sandbox.
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
    /// The Unix socket of the guest's vsock.
    pub const VSOCK: &str = "vsock.sock";
    /// The VMM's control socket.
    pub const CONTROL: &str = "control.sock";
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

    /// The folder of a sandbox that exists.
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

    /// Every sandbox below `root`.
    ///
    /// # Errors
    /// What the file system said; a `root` that does not exist has no sandboxes.
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

    /// The sandbox's id.
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

    /// Writes the record, so that a reader finds the old one or the new one, whole.
    ///
    /// # Errors
    /// What the file system said; the old record is then still there.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        let temporary = self.path.join(Self::STATE_NEW);
        let written = serde_json::to_vec(state)
            .map_err(io::Error::from)
            .and_then(|text| File::create(&temporary)?.write_all(&text));
        written.map_err(StateError::io("write", &temporary))?;
        fs::rename(&temporary, self.path.join(Self::STATE)).map_err(StateError::io("rename", &temporary))
    }

    /// Reads the record; none if the sandbox was not far enough to have one.
    ///
    /// # Errors
    /// What the file system said, or a record that cannot be understood.
    pub fn load(&self) -> Result<Option<State>, StateError> {
        let file = self.path.join(Self::STATE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StateError::io("read", &file)(e)),
        };
        let state: State = serde_json::from_slice(&text).map_err(|e| StateError::Damaged {
            file: file.clone(),
            problem: e.to_string(),
        })?;
        if state.version != VERSION {
            let problem = format!(
                "is of version {}, this program writes version {VERSION}",
                state.version
            );
            return Err(StateError::Damaged { file, problem });
        }
        Ok(Some(state))
    }

    /// Removes the folder. Only what this program puts there is removed, and no folder that has something in it:
    /// a user's files that happened to be mounted below are safe.
    ///
    /// # Errors
    /// What the file system said; nothing left to remove is no error.
    pub fn remove(&self) -> Result<(), StateError> {
        for name in [Self::STATE, Self::STATE_NEW, Self::VSOCK, Self::CONTROL] {
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

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    fn id(text: &str) -> Id {
        text.parse().expect("valid id")
    }

    fn state(id: Id) -> State {
        State::creating(NewState {
            id,
            monitor: ProcessIdentity::current().expect("this process has an identity"),
            bundle: "/bundle".into(),
            rootfs: "/bundle/rootfs".into(),
            cgroup: "/sys/fs/cgroup/bulkhead/a".into(),
            annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        })
    }

    #[test]
    fn an_id_is_taken_once() {
        let root = tempfile::tempdir().expect("temporary folder");
        let root = root.path().join("not").join("there");
        let folder = StateFolder::create(&root, &id("a")).expect("free");
        let error = StateFolder::create(&root, &id("a")).expect_err("taken");
        assert_eq!(
            error.to_string(),
            "container with given ID already exists: a is in use"
        );
        folder.remove().expect("removable");
        StateFolder::create(&root, &id("a")).expect("free again");
    }

    #[test]
    fn a_record_survives_and_is_replaced() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = StateFolder::create(root.path(), &id("a")).expect("free");
        assert_eq!(folder.load().expect("readable"), None);
        let mut state = state(id("a"));
        folder.save(&state).expect("writable");
        state.status = Status::Running;
        folder.save(&state).expect("writable");
        assert_eq!(folder.load().expect("readable"), Some(state));
        assert_eq!(StateFolder::all(root.path()).expect("readable").len(), 1);
        folder.remove().expect("removable");
        assert!(matches!(
            StateFolder::open(root.path(), &id("a")),
            Err(StateError::Missing(_))
        ));
    }

    #[test]
    fn a_path_that_is_not_text_is_an_error() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = StateFolder::create(root.path(), &id("a")).expect("free");
        let mut state = state(id("a"));
        state.bundle = OsStr::from_bytes(b"/bundle\xff").into();
        let error = folder.save(&state).expect_err("no JSON").to_string();
        assert!(error.contains("invalid UTF-8"), "{error}");
    }

    #[test]
    fn a_record_of_another_version_is_not_read() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = StateFolder::create(root.path(), &id("a")).expect("free");
        let mut state = state(id("a"));
        state.version = VERSION + 1;
        folder.save(&state).expect("writable");
        let error = folder.load().expect_err("of another version").to_string();
        assert!(
            error.ends_with("state.json: is of version 2, this program writes version 1"),
            "{error}"
        );
    }

    #[test]
    fn a_stand_in_that_has_gone_means_stopped() {
        let mut state = state(id("a"));
        state.status = Status::Running;
        assert_eq!(state.current_status(), Status::Running);
        state.monitor.start_time += 1;
        assert_eq!(state.current_status(), Status::Stopped);
    }

    #[test]
    fn removal_leaves_what_it_does_not_know() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = StateFolder::create(root.path(), &id("a")).expect("free");
        let shared = folder.make(StateFolder::SHARED).expect("writable");
        fs::write(shared.join("precious"), "").expect("writable");
        folder.remove().expect_err("not empty");
        assert!(shared.join("precious").exists());
    }
}
