//! A file's attributes, from the host's terms to the protocol's.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use fuse_backend_rs::abi::fuse_abi::Attr;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, makedev, statx};
use rustix::io::Errno;

use super::inodes::Version;

/// What tells an inode from all others: two mounts of one file system are two, since their options can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The mount.
    pub mount: u64,
    device: (u32, u32),
    inode: u64,
}

impl Identity {
    /// Of the inode with that number on the same file system and mount.
    pub fn beside(self, inode: u64) -> Self {
        Identity { inode, ..self }
    }
}

/// The attributes of a file of the host.
pub struct Status(Statx);

impl Status {
    /// Of an open file, also with `O_PATH`.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Self::read(file, c"", AtFlags::EMPTY_PATH)
    }

    /// Of the entry `name` of a folder, without following a link.
    pub fn at(folder: impl AsFd, name: &CStr) -> io::Result<Self> {
        Self::read(folder, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn read(folder: impl AsFd, name: &CStr, flags: AtFlags) -> io::Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID | StatxFlags::BTIME;
        let status = statx(folder, name, flags | AtFlags::NO_AUTOMOUNT, wanted)?;
        let needed = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
        if !StatxFlags::from_bits_retain(status.stx_mask).contains(needed) {
            return Err(Errno::NOSYS.into());
        }
        Ok(Status(status))
    }

    /// What the inode is known by.
    pub fn identity(&self) -> Identity {
        let Statx {
            stx_mnt_id,
            stx_dev_major,
            stx_dev_minor,
            stx_ino,
            ..
        } = self.0;
        Identity {
            mount: stx_mnt_id,
            device: (stx_dev_major, stx_dev_minor),
            inode: stx_ino,
        }
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.0.stx_mode.into())
    }

    /// What changes when the contents do.
    pub fn version(&self) -> Version {
        (self.0.stx_ctime.tv_sec, self.0.stx_ctime.tv_nsec, self.0.stx_size)
    }

    /// Whether a write by someone without privileges has to clear a bit.
    pub fn has_set_id_bits(&self) -> bool {
        u32::from(self.0.stx_mode) & (libc::S_ISUID | libc::S_ISGID) != 0
    }

    /// As the host gives them, for the reply to `FUSE_STATX`.
    pub fn as_statx(&self) -> &Statx {
        &self.0
    }
}

impl From<&Status> for Attr {
    fn from(Status(status): &Status) -> Attr {
        // The protocol has signed times in unsigned fields.
        let seconds = |seconds: i64| u64::from_ne_bytes(seconds.to_ne_bytes());
        Attr {
            ino: status.stx_ino,
            size: status.stx_size,
            blocks: status.stx_blocks,
            atime: seconds(status.stx_atime.tv_sec),
            mtime: seconds(status.stx_mtime.tv_sec),
            ctime: seconds(status.stx_ctime.tv_sec),
            atimensec: status.stx_atime.tv_nsec,
            mtimensec: status.stx_mtime.tv_nsec,
            ctimensec: status.stx_ctime.tv_nsec,
            mode: status.stx_mode.into(),
            nlink: status.stx_nlink,
            uid: status.stx_uid,
            gid: status.stx_gid,
            // Linux device numbers have 12 and 20 bits, and fit 32 bits encoded.
            rdev: u32::try_from(makedev(status.stx_rdev_major, status.stx_rdev_minor)).unwrap_or(0),
            blksize: status.stx_blksize,
            flags: 0,
        }
    }
}

/// What the guest is told when the host does not give an extended attribute.
///
/// A host file system without access control lists says that it does not know the attribute. A guest's kernel takes
/// that for a failure to check who may open the file, and refuses everybody but its owner; that there is no list is what
/// it has to hear.
pub fn extended_attribute_error(name: &CStr, errno: Errno) -> io::Error {
    if errno == Errno::OPNOTSUPP && name.to_bytes().starts_with(b"system.posix_acl_") {
        Errno::NODATA.into()
    } else {
        errno.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_lists_has_no_list() {
        let told = |name, errno| extended_attribute_error(name, errno).raw_os_error();
        let access = c"system.posix_acl_access";
        assert_eq!(told(access, Errno::OPNOTSUPP), Some(libc::ENODATA));
        assert_eq!(
            told(c"system.posix_acl_default", Errno::OPNOTSUPP),
            Some(libc::ENODATA)
        );
        assert_eq!(told(access, Errno::ACCESS), Some(libc::EACCES));
        assert_eq!(told(c"user.any", Errno::OPNOTSUPP), Some(libc::EOPNOTSUPP));
    }
}
