//! L1s that stay up under a name, for work by hand: a keeper process holds each, and a file in the cache tells where.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::client::Endpoint;
use super::{Error, cache};

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Named {
    /// The keeper's process id.
    pub keeper: i32,
    /// How to reach the L1.
    pub endpoint: Endpoint,
}

impl Named {
    /// The L1 called `name`.
    ///
    /// # Errors
    /// It is not up.
    pub fn find(name: &str) -> Result<Self, Error> {
        let not_up = || Error::NotUp { name: name.into() };
        let text = fs::read(file(name)?).map_err(|_| not_up())?;
        let named: Self = serde_json::from_slice(&text).map_err(|_| not_up())?;
        if named.is_up() { Ok(named) } else { Err(not_up()) }
    }

    /// Makes the L1 known as `name`.
    ///
    /// # Errors
    /// The name is in use, or the file cannot be written.
    pub fn publish(&self, name: &str) -> Result<(), Error> {
        if Self::find(name).is_ok() {
            return Err(Error::NameInUse(name.into()));
        }
        let path = file(name)?;
        let scratch = path.with_extension(self.keeper.to_string());
        let text = serde_json::to_vec(self).map_err(|error| Error::file(&scratch)(error.into()))?;
        fs::write(&scratch, text).map_err(Error::file(&scratch))?;
        fs::set_permissions(&scratch, Permissions::from_mode(0o600)).map_err(Error::file(&scratch))?;
        fs::rename(&scratch, &path).map_err(Error::file(&path))
    }

    /// Ends the L1 called `name`.
    ///
    /// # Errors
    /// It is not up.
    pub fn end(name: &str) -> Result<(), Error> {
        let named = Self::find(name)?;
        let path = file(name)?;
        // Gone already is as good.
        let _ = kill(Pid::from_raw(named.keeper), Signal::SIGKILL);
        fs::remove_file(&path).map_err(Error::file(&path))
    }

    /// A keeper that was killed leaves its file behind, and its id may be another process's by now; but nobody
    /// listens any more.
    fn is_up(&self) -> bool {
        TcpStream::connect(self.endpoint.address).is_ok()
    }
}

fn file(name: &str) -> Result<PathBuf, Error> {
    let folder = cache::folder()?.join("up");
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(Error::file(&folder))?;
    Ok(folder.join(format!("{}.json", name.replace('/', "_"))))
}
