//! The files and folders that the guest has open.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

/// The flags that a process can change while a file is open, and that matter to the host.
const CHANGEABLE: OFlags = OFlags::APPEND.union(OFlags::DIRECT);

/// With how many of a folder's entries their attributes are given when it is listed. Without them the guest asks for each that it
/// wants to know more about; with them, a descriptor is held for each until the guest forgets it.
const LISTED_WITH_ATTRIBUTES: u32 = 1000;

/// An open file or folder.
pub struct Handle {
    inode: u64,
    /// How many entries of it have come with their attributes since it was listed from the beginning.
    listed: AtomicU32,
    open: Mutex<Open>,
}

/// A file with the flags in force.
pub struct Open {
    /// The file.
    pub file: File,
    flags: OFlags,
}

impl Open {
    /// Follows a change of the flags in the guest, of which the host only learns by the next request.
    pub fn set_flags(&mut self, flags: u32) -> io::Result<()> {
        let flags = OFlags::from_bits_retain(flags) & CHANGEABLE;
        if flags != self.flags {
            fcntl_setfl(&self.file, flags)?;
            self.flags = flags;
        }
        Ok(())
    }
}

impl Handle {
    /// The file, for one request at a time: a folder is read from its position.
    pub fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a folder is listed from the beginning.
    pub fn begin(&self) {
        self.listed.store(0, Ordering::Relaxed);
    }

    /// Whether the next entry of the folder may come with its attributes.
    pub fn lists_attributes(&self) -> bool {
        self.listed.load(Ordering::Relaxed) < LISTED_WITH_ATTRIBUTES
    }

    /// Counts an entry that has come with its attributes.
    pub fn count_listed(&self) {
        self.listed.fetch_add(1, Ordering::Relaxed);
    }
}

/// All that the guest has open.
#[derive(Default)]
pub struct Handles {
    open: HashMap<u64, Arc<Handle>>,
    last: u64,
}

impl Handles {
    /// Adds an open file and returns its number.
    pub fn insert(&mut self, inode: u64, file: File, flags: OFlags) -> u64 {
        self.last += 1;
        let open = Mutex::new(Open {
            file,
            flags: flags & CHANGEABLE,
        });
        self.open.insert(
            self.last,
            Arc::new(Handle {
                inode,
                listed: AtomicU32::new(0),
                open,
            }),
        );
        self.last
    }

    /// The open file with that number.
    ///
    /// # Errors
    /// `EBADF` when there is none, or it is another inode's.
    pub fn get(&self, number: u64, inode: u64) -> io::Result<Arc<Handle>> {
        let handle = self.open.get(&number).filter(|handle| handle.inode == inode);
        handle.cloned().ok_or_else(|| Errno::BADF.into())
    }

    /// Closes an open file.
    ///
    /// # Errors
    /// As for [`Handles::get`].
    pub fn remove(&mut self, number: u64, inode: u64) -> io::Result<()> {
        self.get(number, inode)?;
        self.open.remove(&number);
        Ok(())
    }

    /// Closes all.
    pub fn clear(&mut self) {
        self.open.clear();
    }
}
