//! The `/dev/shm` that the containers of a pod have in common.
//!
//! Engines make it as a tmpfs on the host, and bind-mount that in every container. But processes that map the same file of it
//! are to see each other's writes at once, which a guest cannot have of a file system of the host. So it is a tmpfs of the
//! same size in the guest, one for all bind mounts of the same tmpfs.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use bulkhead_agent_protocol::MEMORY_FOLDER;
use rustix::fs::statfs;

use super::{BindSource, Mount};

const DESTINATION: &str = "/dev/shm";

/// `TMPFS_MAGIC` of statfs(2).
const TMPFS: i64 = 0x0102_1994;

/// A tmpfs in the guest that stands for one of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMemory {
    /// Its place in `mounts`.
    pub index: usize,
    /// How much can be in it, in bytes.
    pub size: u64,
    /// The permissions of its root.
    pub mode: u32,
    /// The number of the file system on the host.
    device: u64,
}

impl SharedMemory {
    /// Takes it out of the bind mounts, if it is among them: an empty tmpfs of the host's, made for the purpose, at `/dev/shm`.
    pub fn take(binds: &mut Vec<BindSource>, mounts: &[Mount]) -> Option<Self> {
        let place = binds.iter().position(|bind| {
            let mount = mounts.get(bind.index);
            bind.mappings.is_none() && mount.is_some_and(|mount| mount.destination == DESTINATION)
        })?;
        let found = Self::of(binds.get(place)?)?;
        binds.remove(place);
        Some(found)
    }

    fn of(bind: &BindSource) -> Option<Self> {
        let system = statfs(&bind.path).ok()?;
        let root = fs::metadata(&bind.path).ok()?;
        let is_device_of = |path: &Path| fs::metadata(path).is_ok_and(|other| other.dev() == root.dev());
        let is_made_for_it =
            !bind.path.parent().is_some_and(is_device_of) && !is_device_of(Path::new(DESTINATION));
        let is_empty = || fs::read_dir(&bind.path).is_ok_and(|mut entries| entries.next().is_none());
        (system.f_type == TMPFS && is_made_for_it && is_empty()).then(|| Self {
            index: bind.index,
            size: system.f_blocks.saturating_mul(system.f_bsize.unsigned_abs()),
            mode: root.mode() & 0o7777,
            device: root.dev(),
        })
    }

    /// Where the guest mounts it.
    pub fn folder(&self) -> String {
        format!("{MEMORY_FOLDER}/{}", self.device)
    }

    /// How the guest mounts it.
    pub fn options(&self) -> Vec<String> {
        let options = ["nosuid", "nodev", "noexec"].map(str::to_owned);
        let limits = [format!("size={}", self.size), format!("mode={:o}", self.mode)];
        options.into_iter().chain(limits).collect()
    }
}
