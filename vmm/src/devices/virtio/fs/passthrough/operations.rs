//! The operations of FUSE, one by one.
//!
//! There is no `flush`: every write has been made, and has reported its error, before a file is closed. The guest's
//! kernel stops asking when it learns that. There is no `access` either, since the guest's kernel decides that.

use std::ffi::CStr;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{Attr, CreateIn, WRITE_KILL_PRIV};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, OFlags, RawDir, RawDirEntry, RenameFlags, SeekFrom, Timespec,
    Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use super::attributes::extended_attribute_error;
use super::credentials::{Unprivileged, gid, uid};
use super::pieces::{in_pieces, retry};
use super::{Passthrough, Status, VALID, check_name, permissions};
use crate::devices::virtio::buffers::WRITTEN_AT_ONCE;

/// The longest value and the longest list of extended attributes that Linux knows.
const XATTR_MAX: u32 = 64 << 10;

/// How much of a folder is read at a time: as much as the guest's kernel asks for at most.
const DIRECTORY_BUFFER: u32 = 128 << 10;

/// An entry with its attributes takes the guest at least three times what it takes here, and what has been read in vain is read
/// again. There is always room for a few of the longest names.
const WITH_ATTRIBUTES: u32 = 3;
const LEAST_DIRECTORY_BUFFER: u32 = 1 << 10;

/// With these a write is one step, whatever its size: what is appended stays together, and each call may cost a turn to the
/// disk.
const INDIVISIBLE: OFlags = OFlags::APPEND
    .union(OFlags::DIRECT)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

type OpenReply = (Option<u64>, OpenOptions, Option<u32>);

impl FileSystem for Passthrough {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::ASYNC_READ
            | FsOptions::ASYNC_DIO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::BIG_WRITES
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::DONT_MASK
            | FsOptions::DO_READDIRPLUS
            | FsOptions::HANDLE_KILLPRIV_V2
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::POSIX_ACL
            | FsOptions::SUBMOUNTS)
    }

    fn destroy(&self) {
        self.handles().clear();
        self.inodes().clear();
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        match self.find(&*self.inode(parent)?, name) {
            // That there is no such entry is remembered as long as that there is one.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Entry {
                entry_timeout: VALID,
                ..Entry::default()
            }),
            found => found,
        }
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.inodes().forget(inode, count);
    }

    fn batch_forget(&self, _: &Context, requests: Vec<(u64, u64)>) {
        let mut inodes = self.inodes();
        for (inode, count) in requests {
            inodes.forget(inode, count);
        }
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(libc::stat64, Duration)> {
        let (status, valid) = self.status(inode)?;
        Ok((Attr::from(&status).into(), valid))
    }

    fn setattr(
        &self,
        request: &Context,
        number: u64,
        attr: libc::stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(libc::stat64, Duration)> {
        let inode = self.inode(number)?;
        let set = |flag| valid.contains(flag);
        if set(SetattrValid::MODE) {
            let mode = permissions(attr.st_mode);
            rustix::fs::chmodat(&self.descriptors, inode.number(), mode, AtFlags::empty())?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let owner = set(SetattrValid::UID).then(|| uid(attr.st_uid)).transpose()?;
            let group = set(SetattrValid::GID).then(|| gid(attr.st_gid)).transpose()?;
            rustix::fs::chownat(&*inode, c"", owner, group, AtFlags::EMPTY_PATH)?;
        }
        if set(SetattrValid::SIZE) {
            let size = u64::try_from(attr.st_size).map_err(|_| Errno::FBIG)?;
            let _unprivileged = set(SetattrValid::KILL_SUIDGID)
                .then(|| Unprivileged::new(&self.own, request))
                .transpose()?;
            match handle {
                Some(handle) => rustix::fs::ftruncate(&self.handle(handle, number)?.open().file, size)?,
                None => rustix::fs::ftruncate(self.reopen(&inode, OFlags::WRONLY)?, size)?,
            }
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            let time = |given, now, seconds, nanoseconds| Timespec {
                tv_sec: seconds,
                tv_nsec: match (set(now), set(given)) {
                    (true, _) => UTIME_NOW,
                    (_, true) => nanoseconds,
                    _ => UTIME_OMIT,
                },
            };
            let times = Timestamps {
                last_access: time(
                    SetattrValid::ATIME,
                    SetattrValid::ATIME_NOW,
                    attr.st_atime,
                    attr.st_atime_nsec,
                ),
                last_modification: time(
                    SetattrValid::MTIME,
                    SetattrValid::MTIME_NOW,
                    attr.st_mtime,
                    attr.st_mtime_nsec,
                ),
            };
            rustix::fs::utimensat(&self.descriptors, inode.number(), &times, AtFlags::empty())?;
        }
        self.getattr(request, number, handle)
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let inode = self.inode(inode)?;
        Ok(rustix::fs::readlinkat(&*inode, c"", Vec::new())?.into_bytes())
    }

    fn symlink(&self, request: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        check_name(name)?;
        let parent = self.inode(parent)?;
        self.as_user(request, 0, || rustix::fs::symlinkat(target, &*parent, name))?;
        self.find(&parent, name)
    }

    fn mknod(
        &self,
        request: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        check_name(name)?;
        let parent = self.inode(parent)?;
        let kind = FileType::from_raw_mode(mode);
        self.as_user(request, umask, || {
            rustix::fs::mknodat(&*parent, name, kind, permissions(mode), rdev.into())
        })?;
        self.find(&parent, name)
    }

    fn mkdir(&self, request: &Context, parent: u64, name: &CStr, mode: u32, umask: u32) -> io::Result<Entry> {
        check_name(name)?;
        let parent = self.inode(parent)?;
        self.as_user(request, umask, || {
            rustix::fs::mkdirat(&*parent, name, permissions(mode))
        })?;
        self.find(&parent, name)
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        check_name(name)?;
        Ok(rustix::fs::unlinkat(
            &*self.inode(parent)?,
            name,
            AtFlags::empty(),
        )?)
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        check_name(name)?;
        Ok(rustix::fs::unlinkat(
            &*self.inode(parent)?,
            name,
            AtFlags::REMOVEDIR,
        )?)
    }

    fn rename(
        &self,
        _: &Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        check_name(old_name)?;
        check_name(new_name)?;
        let (old, new) = (self.inode(old_parent)?, self.inode(new_parent)?);
        let flags = RenameFlags::from_bits_retain(flags);
        Ok(rustix::fs::renameat_with(
            &*old, old_name, &*new, new_name, flags,
        )?)
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        check_name(name)?;
        let (inode, parent) = (self.inode(inode)?, self.inode(parent)?);
        // The link to follow is the descriptor's in its folder, and ends at the inode, be it a link itself.
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(&self.descriptors, inode.number(), &*parent, name, flags)?;
        self.find(&parent, name)
    }

    fn open(&self, request: &Context, inode: u64, flags: u32, fuse_flags: u32) -> io::Result<OpenReply> {
        let (handle, options) = self.open_inode(request, inode, flags, fuse_flags)?;
        Ok((Some(handle), options, None))
    }

    fn create(
        &self,
        request: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let opened = self.create_file(request, &*self.inode(parent)?, name, &args)?;
        Ok((opened.entry, Some(opened.handle), opened.options, None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        writer: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let handle = self.handle(handle, inode)?;
        let mut open = handle.open();
        open.set_flags(flags)?;
        retry(|| writer.write_from(&mut open.file, size as usize, offset))
    }

    fn write(
        &self,
        request: &Context,
        inode: u64,
        handle: u64,
        reader: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _delayed_write: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let handle = self.handle(handle, inode)?;
        let mut open = handle.open();
        open.set_flags(flags)?;
        let clears = fuse_flags & WRITE_KILL_PRIV != 0 && Status::of(&open.file)?.has_set_id_bits();
        let _unprivileged = clears
            .then(|| Unprivileged::new(&self.own, request))
            .transpose()?;
        let at_once = match OFlags::from_bits_retain(flags).intersects(INDIVISIBLE) {
            true => size as usize,
            false => WRITTEN_AT_ONCE,
        };
        in_pieces(size as usize, at_once, |piece, done| {
            reader.read_to(&mut open.file, piece, offset.saturating_add(done as u64))
        })
    }

    fn fsync(&self, _: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        let handle = self.handle(handle, inode)?;
        let file = &handle.open().file;
        let synced = if data_only {
            rustix::fs::fdatasync(file)
        } else {
            rustix::fs::fsync(file)
        };
        Ok(synced?)
    }

    fn fsyncdir(&self, request: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        self.fsync(request, inode, data_only, handle)
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let handle = self.handle(handle, inode)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(&handle.open().file, mode, offset, length)?)
    }

    fn lseek(&self, _: &Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let position = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            // The guest's kernel does the others itself.
            _ => return Err(Errno::INVAL.into()),
        };
        let handle = self.handle(handle, inode)?;
        Ok(rustix::fs::seek(&handle.open().file, position)?)
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.handles().remove(handle, inode)
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<libc::statvfs64> {
        let inode = self.inode(inode)?;
        let mut status = MaybeUninit::<libc::statvfs64>::zeroed();
        // SAFETY: the kernel's answer goes to a structure of the right type.
        let result = unsafe { libc::fstatvfs64(inode.as_fd().as_raw_fd(), status.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: any bytes are a valid value of this structure of integers.
        Ok(unsafe { status.assume_init() })
    }

    fn setxattr(&self, _: &Context, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        let inode = self.inode(inode)?;
        Ok(rustix::fs::setxattr(
            inode.number(),
            name,
            value,
            XattrFlags::from_bits_retain(flags),
        )?)
    }

    fn getxattr(&self, _: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let inode = self.inode(inode)?;
        let failed = |errno| extended_attribute_error(name, errno);
        if size == 0 {
            let length = rustix::fs::getxattr_query(inode.number(), name).map_err(failed)?;
            return Ok(GetxattrReply::Count(u32::try_from(length).unwrap_or(u32::MAX)));
        }
        let mut value = Vec::with_capacity(size.min(XATTR_MAX) as usize);
        rustix::fs::getxattr(inode.number(), name, spare_capacity(&mut value)).map_err(failed)?;
        Ok(GetxattrReply::Value(value))
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let inode = self.inode(inode)?;
        if size == 0 {
            let length = rustix::fs::listxattr_query(inode.number())?;
            return Ok(ListxattrReply::Count(u32::try_from(length).unwrap_or(u32::MAX)));
        }
        let mut names = Vec::with_capacity(size.min(XATTR_MAX) as usize);
        rustix::fs::listxattr(inode.number(), spare_capacity(&mut names))?;
        Ok(ListxattrReply::Names(names))
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::removexattr(self.inode(inode)?.number(), name)?)
    }

    fn opendir(&self, _: &Context, inode: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let file = self.reopen(&*self.inode(inode)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let handle = self.handles().insert(inode, file, OFlags::empty());
        Ok((Some(handle), OpenOptions::empty()))
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.each_entry(inode, handle, size, offset, &mut |found| {
            add_entry(directory_entry(found))
        })
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let folder = self.inode(inode)?;
        let listing = self.handle(handle, inode)?;
        if offset == 0 {
            listing.begin();
        }
        let buffer = (size / WITH_ATTRIBUTES).max(size.min(LEAST_DIRECTORY_BUFFER));
        self.each_entry(inode, handle, buffer, offset, &mut |found| {
            // An entry without a number is listed but not remembered: `.` and `..`, what has gone meanwhile, and
            // what is too much.
            let entry = if self.may_remember_listed() && listing.lists_attributes() {
                self.find_listed(&folder, found.file_name(), found.ino())
                    .unwrap_or_default()
            } else {
                Entry::default()
            };
            let added = add_entry(directory_entry(found), entry);
            if !matches!(added, Ok(1..)) {
                self.inodes().forget(entry.inode, 1);
            } else if entry.inode != 0 {
                listing.count_listed();
            }
            added
        })
    }

    fn releasedir(&self, _: &Context, inode: u64, _flags: u32, handle: u64) -> io::Result<()> {
        self.handles().remove(handle, inode)
    }
}

impl Passthrough {
    /// Calls `add` with the entries of an open folder from `offset` on until it returns 0 or there are no more. Reads `buffer` bytes
    /// at a time.
    fn each_entry(
        &self,
        inode: u64,
        handle: u64,
        buffer: u32,
        offset: u64,
        add: &mut dyn FnMut(&RawDirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let handle = self.handle(handle, inode)?;
        let file = &handle.open().file;
        rustix::fs::seek(file, SeekFrom::Start(offset))?;
        let mut buffer = Vec::with_capacity(buffer.min(DIRECTORY_BUFFER) as usize);
        let mut entries = RawDir::new(file, buffer.spare_capacity_mut());
        let mut is_first = true;
        while let Some(entry) = entries.next() {
            let added = entry.map_err(io::Error::from).and_then(|entry| add(&entry));
            match added {
                Ok(0) => break,
                Ok(_) => is_first = false,
                Err(error) if is_first => return Err(error),
                // What has been added counts; the error comes back with the next call.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

fn directory_entry<'e>(entry: &'e RawDirEntry<'_>) -> DirEntry<'e> {
    DirEntry {
        ino: entry.ino(),
        offset: entry.next_entry_cookie(),
        type_: match entry.file_type() {
            FileType::Unknown => libc::DT_UNKNOWN.into(),
            // `DT_*` is the type's bits of a mode.
            known => known.as_raw_mode() >> 12,
        },
        name: entry.file_name().to_bytes(),
    }
}
