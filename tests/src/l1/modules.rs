//! Loading kernel modules from the initramfs.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// Where the initramfs keeps the modules: numbered in the order in which to load them.
pub const FOLDER: &str = "/modules";

/// Loads every module of the initramfs in order.
///
/// # Errors
/// The module that did not load, by name.
pub fn load_all() -> io::Result<()> {
    let mut paths = fs::read_dir(FOLDER)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().try_for_each(|path| {
        load(path).map_err(|error| io::Error::other(format!("load {}: {error}", path.display())))
    })
}

fn load(path: &Path) -> io::Result<()> {
    const NO_PARAMETERS: &CStr = c"";
    match finit_module(&File::open(path)?, NO_PARAMETERS, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
