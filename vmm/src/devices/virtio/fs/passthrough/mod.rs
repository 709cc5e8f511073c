//! A file system that is a folder of the host: what each operation of FUSE does with the host's files.
//!
//! It is not the crate's own `PassthroughFs`, since that cannot serve from a root without `/proc` (extended attributes),
//! needs `CAP_DAC_READ_SEARCH` to make hard links, does not know supplementary groups, default ACLs and mounts below
//! the folder, lists no `.` and `..`, and lists other inode numbers than it gives as attributes.

mod attributes;
mod credentials;
mod handles;
mod inodes;
mod operations;
mod pieces;

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{ATTR_SUBMOUNT, Attr, CreateIn, FOPEN_IN_KILL_SUIDGID};
use fuse_backend_rs::api::filesystem::{Context, Entry, OpenOptions};
use rustix::fs::{FileType, Mode, OFlags, RawMode, openat};
use rustix::io::Errno;
use rustix::process::{Resource, fchdir, getrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

pub use attributes::Status;
use credentials::{Mask, Own, Unprivileged};
use handles::{Handle, Handles};
use inodes::{Inode, Inodes};

/// How long the guest's kernel need not ask again about a name or about attributes.
const VALID: Duration = Duration::from_secs(1);

/// What a guest can ask for when it opens a file. Creating and what else there is are operations of their own.
const OPEN_FLAGS: OFlags = OFlags::ACCMODE
    .union(OFlags::APPEND)
    .union(OFlags::DIRECT)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC)
    .union(OFlags::NOATIME)
    .union(OFlags::NONBLOCK)
    .union(OFlags::TRUNC);

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder of the host.
pub struct Passthrough {
    /// The folder of this process's descriptors; also the thread's working directory, for the calls on extended
    /// attributes, which know no other base.
    descriptors: OwnedFd,
    own: Own,
    /// How many inodes may be remembered before listing a folder adds no more. It must not use up the descriptors that
    /// files to be opened need.
    room: usize,
    inodes: Mutex<Inodes>,
    handles: Mutex<Handles>,
}

/// A file that has just been opened: its entry, its handle, and what the guest's kernel should do about it.
pub struct Opened {
    /// The entry.
    pub entry: Entry,
    /// The handle.
    pub handle: u64,
    /// Whether to keep the pages of the last time.
    pub options: OpenOptions,
}

impl Passthrough {
    /// Serves `root` from now on on this thread, and on no other: it gets a working directory and a file mode mask of
    /// its own.
    ///
    /// # Errors
    /// The host's.
    pub fn new(root: OwnedFd, descriptors: OwnedFd) -> io::Result<Self> {
        // SAFETY: CLONE_FS concerns only the thread's root, working directory and mask, on whose being shared with
        // other threads nothing relies.
        unsafe { unshare_unsafe(UnshareFlags::FS)? };
        fchdir(&descriptors)?;
        drop(Mask::set(0));
        let status = Status::of(&root)?;
        let descriptors_at_most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Ok(Passthrough {
            descriptors,
            own: Own::of_this_thread(),
            room: usize::try_from(descriptors_at_most / 2).unwrap_or(usize::MAX),
            inodes: Mutex::new(Inodes::new(Inode::new(root, &status))),
            handles: Mutex::default(),
        })
    }

    fn inodes(&self) -> MutexGuard<'_, Inodes> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an entry may be remembered for no other reason than that it is listed.
    fn may_remember_listed(&self) -> bool {
        self.inodes().len() < self.room
    }

    /// How many inodes are remembered, without the root.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.inodes().len()
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inode(&self, number: u64) -> io::Result<Arc<Inode>> {
        self.inodes().get(number)
    }

    fn handle(&self, number: u64, inode: u64) -> io::Result<Arc<Handle>> {
        self.handles().get(number, inode)
    }

    /// Finds the entry `name` of a folder, and counts the lookup.
    fn find(&self, parent: &Inode, name: &CStr) -> io::Result<Entry> {
        check_name(name)?;
        let status = Status::at(parent, name)?;
        if let Some(number) = self.inodes().look_up(&status.identity()) {
            return Ok(entry(number, &status, parent));
        }
        // Between the two calls the name may have come to mean another file, so the first answer does not count.
        let path_only = openat(parent, name, PATH_ONLY, Mode::empty())?;
        self.remember(parent, path_only)
    }

    /// The same, for an entry that the folder lists with this inode number.
    fn find_listed(&self, parent: &Inode, name: &CStr, inode: u64) -> io::Result<Entry> {
        // What nobody knows has to be opened anyhow; one call less, for each entry of a folder that is listed.
        if self.inodes().contains(&parent.identity().beside(inode)) {
            return self.find(parent, name);
        }
        check_name(name)?;
        self.remember(parent, openat(parent, name, PATH_ONLY, Mode::empty())?)
    }

    /// Counts a lookup of a file that is open with `O_PATH`.
    fn remember(&self, parent: &Inode, path_only: OwnedFd) -> io::Result<Entry> {
        let status = Status::of(&path_only)?;
        let number = self.inodes().remember(Inode::new(path_only, &status));
        Ok(entry(number, &status, parent))
    }

    /// Does `create` as the user of the request and under its mask.
    fn as_user<T>(
        &self,
        request: &Context,
        mask: u32,
        create: impl FnOnce() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let _someone = self.own.become_user(request)?;
        let _mask = Mask::set(mask);
        Ok(create()?)
    }

    /// Opens an inode for its contents.
    fn reopen(&self, inode: &Inode, flags: OFlags) -> io::Result<File> {
        inode.check_openable()?;
        Ok(openat(
            &self.descriptors,
            inode.number(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?
        .into())
    }

    /// Opens the inode with that number for the guest.
    fn open_inode(
        &self,
        request: &Context,
        number: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(u64, OpenOptions)> {
        let inode = self.inode(number)?;
        let flags = OFlags::from_bits_retain(flags) & OPEN_FLAGS;
        let truncates = flags.contains(OFlags::TRUNC) && fuse_flags & FOPEN_IN_KILL_SUIDGID != 0;
        let _unprivileged = truncates
            .then(|| Unprivileged::new(&self.own, request))
            .transpose()?;
        let file = self.reopen(&inode, flags)?;
        let unchanged = inode.reopened_unchanged(Status::of(&file)?.version());
        let options = if unchanged {
            OpenOptions::KEEP_CACHE
        } else {
            OpenOptions::empty()
        };
        Ok((self.handles().insert(number, file, flags), options))
    }

    /// Creates a file, or opens what is there if the guest does not insist.
    fn create_file(
        &self,
        request: &Context,
        parent: &Inode,
        name: &CStr,
        args: &CreateIn,
    ) -> io::Result<Opened> {
        check_name(name)?;
        let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        match self.open_new(request, parent, name, exclusive, args) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created,
        }
        if OFlags::from_bits_retain(args.flags).contains(OFlags::EXCL) {
            return Err(Errno::EXIST.into());
        }
        let entry = self.find(parent, name)?;
        let kind = FileType::from_raw_mode(entry.attr.st_mode);
        let opened = if kind == FileType::RegularFile {
            self.open_inode(request, entry.inode, args.flags, args.fuse_flags)
        } else {
            // The guest's kernel took the name for free or a file: it looks again.
            Err(Errno::STALE.into())
        };
        match opened {
            Ok((handle, options)) => Ok(Opened {
                entry,
                handle,
                options,
            }),
            Err(error) => {
                self.inodes().forget(entry.inode, 1);
                Err(error)
            }
        }
    }

    /// Makes a file without a name in a folder.
    pub fn create_unnamed(&self, request: &Context, parent: u64, args: &CreateIn) -> io::Result<Opened> {
        let parent = self.inode(parent)?;
        let access = OFlags::from_bits_retain(args.flags);
        let exclusive = access & OFlags::EXCL;
        self.open_new(request, &parent, c".", OFlags::TMPFILE | exclusive, args)
    }

    /// Opens a file that `how` makes anew.
    fn open_new(
        &self,
        request: &Context,
        parent: &Inode,
        name: &CStr,
        how: OFlags,
        args: &CreateIn,
    ) -> io::Result<Opened> {
        let flags = OFlags::from_bits_retain(args.flags) & OPEN_FLAGS & !OFlags::TRUNC;
        let mode = permissions(args.mode);
        let file = self.as_user(request, args.umask, || {
            openat(parent, name, how | flags | OFlags::CLOEXEC, mode)
        })?;
        let file = File::from(file);
        // By its descriptor and not by its name, which may have come to mean another file.
        let number = rustix::path::DecInt::from_fd(&file);
        let path_only = openat(
            &self.descriptors,
            number,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let entry = self.remember(parent, path_only)?;
        let handle = self.handles().insert(entry.inode, file, flags);
        Ok(Opened {
            entry,
            handle,
            options: OpenOptions::empty(),
        })
    }

    /// Copies between two open files on the host, and returns how much.
    ///
    /// # Errors
    /// `EBADF` for unknown files; the host's.
    pub fn copy(&self, from: (u64, u64, u64), to: (u64, u64, u64), length: u64) -> io::Result<usize> {
        let ((from_inode, from_handle, mut from_offset), (to_inode, to_handle, mut to_offset)) = (from, to);
        let source = self.handle(from_handle, from_inode)?;
        let target = self.handle(to_handle, to_inode)?;
        // The reply has 32 bits for the result, and no request should keep the others waiting for long.
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_COPY);
        if Arc::ptr_eq(&source, &target) {
            let file = &source.open().file;
            let copied =
                rustix::fs::copy_file_range(file, Some(&mut from_offset), file, Some(&mut to_offset), length);
            return Ok(copied?);
        }
        let (source, target) = (source.open(), target.open());
        let copied = rustix::fs::copy_file_range(
            &source.file,
            Some(&mut from_offset),
            &target.file,
            Some(&mut to_offset),
            length,
        );
        Ok(copied?)
    }

    /// Makes durable what has been written to the file system of an inode.
    ///
    /// # Errors
    /// The host's.
    pub fn sync(&self, number: u64) -> io::Result<()> {
        let inode = self.inode(number)?;
        let file = self.reopen(&inode, OFlags::RDONLY)?;
        Ok(rustix::fs::syncfs(file)?)
    }

    /// The attributes of an inode, with how long they are valid.
    ///
    /// # Errors
    /// The host's.
    pub fn status(&self, number: u64) -> io::Result<(Status, Duration)> {
        Ok((Status::of(&*self.inode(number)?)?, VALID))
    }
}

const MAX_COPY: usize = 64 << 20;

/// Refuses what is no name of an entry. The guest's kernel resolves `.` and `..` itself.
fn check_name(name: &CStr) -> io::Result<()> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL.into()),
        name if name.contains(&b'/') => Err(Errno::INVAL.into()),
        _ => Ok(()),
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode as RawMode & 0o7777)
}

/// An entry for the guest's kernel. A folder in another mount than its parent's is announced as one.
fn entry(number: u64, status: &Status, parent: &Inode) -> Entry {
    let is_mount = status.kind() == FileType::Directory && status.identity().mount != parent.mount();
    Entry {
        inode: number,
        generation: 0,
        attr: Attr::from(status).into(),
        attr_flags: if is_mount { ATTR_SUBMOUNT } else { 0 },
        attr_timeout: VALID,
        entry_timeout: VALID,
    }
}
