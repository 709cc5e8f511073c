//! Where a shim listens: it follows from containerd's socket, the namespace and the id, so that whoever knows these finds it.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        fs::DirBuilderExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::command_line::CommandLine;

/// containerd's folder for the sockets of shims, unless it names another one.
pub const FOLDER: &str = "/run/containerd/s";

/// What an address begins with.
const SCHEME: &str = "unix://";

/// The file of a bundle that has its shim's address.
const FILE: &str = "address";

/// The socket of a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(PathBuf);

impl Address {
    /// Of the shim that serves a container, or a group of them by this name, below a folder for sockets.
    pub fn of(folder: &Path, line: &CommandLine, id: &str) -> Self {
        let key = Path::new(&line.address).join(&line.namespace).join(id);
        let hash = Sha256::digest(key.as_os_str().as_encoded_bytes());
        Self(folder.join(format!("{hash:x}")))
    }

    /// The one that was written down in a bundle.
    ///
    /// # Errors
    /// None was.
    pub fn read(bundle: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(bundle.join(FILE))?;
        let path = text.trim().strip_prefix(SCHEME);
        path.map(|path| Self(path.into()))
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Writes it down in a bundle, where containerd 1.6 looks for it after its own restart.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        let temporary = bundle.join(".address");
        fs::write(&temporary, self.url())?;
        fs::rename(&temporary, bundle.join(FILE))
    }

    /// Listens there. None if another shim does.
    ///
    /// # Errors
    /// The file system's.
    pub fn listen(&self) -> io::Result<Option<UnixListener>> {
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
        match UnixListener::bind(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound.map(Some),
        }
        if self.is_served() {
            return Ok(None);
        }
        // Left by a shim that was killed.
        self.remove()?;
        UnixListener::bind(&self.0).map(Some)
    }

    /// Whether somebody listens.
    pub fn is_served(&self) -> bool {
        UnixStream::connect(&self.0).is_ok()
    }

    /// Removes the socket. None is no error.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// As containerd wants it.
    pub fn url(&self) -> String {
        format!("{SCHEME}{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_a_hash_of_who_and_where() {
        let arguments = "-namespace default -address /run/containerd/containerd.sock -id c1 start";
        let arguments = arguments.split(' ').map(Into::into);
        let line = CommandLine::parse(arguments).expect("valid");
        // printf /run/containerd/containerd.sock/default/c1 | sha256sum
        assert_eq!(
            Address::of(FOLDER.as_ref(), &line, &line.id).url(),
            "unix:///run/containerd/s/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
        );
        let folder = tempfile::tempdir().expect("temporary folder");
        let [first, second] = ["c1", "c2"].map(|id| Address::of(folder.path(), &line, id));
        assert_ne!(first, second);
        Address::read(folder.path()).expect_err("none yet");
        first.write(folder.path()).expect("writable");
        assert_eq!(Address::read(folder.path()).expect("written"), first);
    }
}
