//! The inodes that the guest's kernel remembers.

use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use fuse_backend_rs::api::filesystem::ROOT_ID;
use rustc_hash::FxHashMap;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::path::DecInt;

use super::attributes::{Identity, Status};

/// One inode of the host.
pub struct Inode {
    path_only: OwnedFd,
    identity: Identity,
    kind: FileType,
    /// What the file was like when the guest last opened it.
    opened: Mutex<Option<Version>>,
}

/// What changes when a file's contents do: the time of the change, in seconds and nanoseconds, and the size.
pub type Version = (i64, u32, u64);

impl Inode {
    /// An inode by its `O_PATH` descriptor and its attributes.
    pub fn new(path_only: OwnedFd, status: &Status) -> Self {
        Inode {
            path_only,
            identity: status.identity(),
            kind: status.kind(),
            opened: Mutex::new(None),
        }
    }

    /// What tells it from all others.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The mount through which it was found.
    pub fn mount(&self) -> u64 {
        self.identity.mount
    }

    /// Its descriptor's number, which is its name in the folder of descriptors.
    pub fn number(&self) -> DecInt {
        DecInt::new(self.path_only.as_raw_fd())
    }

    /// Refuses what must not be opened here: a device, pipe or socket of the host, whatever the guest says.
    pub fn check_openable(&self) -> io::Result<()> {
        match self.kind {
            FileType::RegularFile | FileType::Directory => Ok(()),
            _ => Err(Errno::BADF.into()),
        }
    }

    /// Notes that the guest opens it in this version, and returns whether that is the one it opened last.
    pub fn reopened_unchanged(&self, version: Version) -> bool {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.replace(version) == Some(version)
    }
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.path_only.as_fd()
    }
}

/// All inodes that the guest's kernel remembers, and how often it looked each up. The root is never forgotten.
///
/// A number is never used again, so it needs no generation. The keys are the host's and our own, and a guest that got them to
/// collide would slow down itself; so they are hashed fast, several times for each entry that it sees.
pub struct Inodes {
    root: Arc<Inode>,
    remembered: FxHashMap<u64, Remembered>,
    numbers: FxHashMap<Identity, u64>,
    next: u64,
}

struct Remembered {
    inode: Arc<Inode>,
    lookups: u64,
}

impl Inodes {
    /// Only the root.
    pub fn new(root: Inode) -> Self {
        Inodes {
            root: Arc::new(root),
            remembered: FxHashMap::default(),
            numbers: FxHashMap::default(),
            next: ROOT_ID + 1,
        }
    }

    /// The inode with that number.
    ///
    /// # Errors
    /// `ESTALE` when the guest's kernel has forgotten it, or never knew it.
    pub fn get(&self, number: u64) -> io::Result<Arc<Inode>> {
        if number == ROOT_ID {
            return Ok(self.root.clone());
        }
        self.remembered
            .get(&number)
            .map(|known| known.inode.clone())
            .ok_or_else(|| Errno::STALE.into())
    }

    /// Whether an inode is remembered.
    pub fn contains(&self, identity: &Identity) -> bool {
        self.numbers.contains_key(identity)
    }

    /// Counts one more lookup of an inode that is remembered, and returns its number.
    pub fn look_up(&mut self, identity: &Identity) -> Option<u64> {
        if *identity == self.root.identity {
            return Some(ROOT_ID);
        }
        // While its descriptor is open, the host gives an inode's number to no other.
        let number = *self.numbers.get(identity)?;
        self.remembered.get_mut(&number)?.lookups += 1;
        Some(number)
    }

    /// Remembers an inode, looked up once, and returns its number.
    pub fn remember(&mut self, inode: Inode) -> u64 {
        if let Some(number) = self.look_up(&inode.identity) {
            return number;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(inode.identity, number);
        self.remembered.insert(
            number,
            Remembered {
                inode: Arc::new(inode),
                lookups: 1,
            },
        );
        number
    }

    /// Takes back `lookups` of an inode, and lets go of it after the last.
    pub fn forget(&mut self, number: u64, lookups: u64) {
        let Entry::Occupied(mut known) = self.remembered.entry(number) else {
            return;
        };
        let rest = known.get().lookups.saturating_sub(lookups);
        known.get_mut().lookups = rest;
        if rest == 0 {
            self.numbers.remove(&known.get().inode.identity);
            known.remove();
        }
    }

    /// Forgets all but the root.
    pub fn clear(&mut self) {
        self.remembered.clear();
        self.numbers.clear();
    }

    /// How many are remembered, without the root.
    pub fn len(&self) -> usize {
        self.remembered.len()
    }
}
