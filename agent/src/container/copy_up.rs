//! Fills a new tmpfs with what it is going to cover (the `tmpcopyup` option): folders, files, links and device
//! nodes, with owner, mode and times.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat,
        mkdirat, mknodat, openat, readlinkat, sendfile, statat, symlinkat, utimensat,
    },
    io::Errno,
};

/// As deep as a tree may be: each level holds two descriptors.
const MAX_DEPTH: usize = 128;

/// Copies the content of the folder `from` into the folder `to`. What is no folder has nothing to be copied.
///
/// # Errors
/// What the calls give; `ENAMETOOLONG` for a tree of more than 128 levels.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    match openat(from, ".", FOLDER, Mode::empty()) {
        Err(Errno::NOTDIR) => Ok(()),
        from => Ok(copy_folder(
            &from?,
            &openat(to, ".", FOLDER, Mode::empty())?,
            MAX_DEPTH,
        )?),
    }
}

/// How a folder is opened that is not to be a symbolic link.
pub const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

fn copy_folder(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let folder = openat(from, name, FOLDER, Mode::empty())?;
                copy_folder(&folder, &openat(to, name, FOLDER, Mode::empty())?, depth)?;
            }
            FileType::RegularFile => {
                let source = openat(
                    from,
                    name,
                    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                    Mode::empty(),
                )?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                copy_bytes(
                    source.as_fd(),
                    openat(to, name, flags, Mode::RUSR | Mode::WUSR)?.as_fd(),
                )?;
            }
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?,
            _ => mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        imitate(to.as_fd(), name, kind, mode, &stat)?;
    }
    Ok(())
}

fn copy_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    while sendfile(to, from, None, 1 << 30)? > 0 {}
    Ok(())
}

fn imitate(
    folder: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    kind: FileType,
    mode: Mode,
    stat: &Stat,
) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        chmodat(folder, name, mode, AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File, Permissions},
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn a_tree_is_copied_with_its_attributes() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("folder")).unwrap();
        fs::write(from.path().join("folder/file"), "content").unwrap();
        fs::set_permissions(from.path().join("folder/file"), Permissions::from_mode(0o4711)).unwrap();
        symlink("/nowhere", from.path().join("link")).unwrap();
        copy(
            File::open(from.path()).unwrap().as_fd(),
            File::open(to.path()).unwrap().as_fd(),
        )
        .unwrap();
        assert_eq!(fs::read(to.path().join("folder/file")).unwrap(), b"content");
        let copied = fs::metadata(to.path().join("folder/file")).unwrap();
        assert_eq!(copied.mode() & 0o7777, 0o4711);
        assert_eq!(
            copied.mtime_nsec(),
            fs::metadata(from.path().join("folder/file"))
                .unwrap()
                .mtime_nsec()
        );
        assert_eq!(
            fs::read_link(to.path().join("link")).unwrap().to_str(),
            Some("/nowhere")
        );
    }
}
