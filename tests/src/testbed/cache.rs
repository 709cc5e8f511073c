//! The user's cache folder: what is downloaded, built or saved once and used by every later run.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

use super::Error;

/// `${XDG_CACHE_HOME:-~/.cache}/bulkhead/testbed`, made if need be, readable by its owner only.
///
/// # Errors
/// The folder cannot be made.
pub fn folder() -> Result<PathBuf, Error> {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map_or_else(
            || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
            PathBuf::from,
        );
    let folder = base.join("bulkhead/testbed");
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    Ok(folder)
}

/// Keeps other testbeds from filling the cache at the same time, until dropped.
///
/// # Errors
/// The lock file cannot be made or locked.
pub fn lock() -> Result<Flock<File>, Error> {
    let path = folder()?.join("lock");
    let file = File::create(&path).map_err(Error::file(&path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Error::File {
        path,
        source: errno.into(),
    })
}
