//! Paths inside a container's root file system, which comes from an image and is hostile: no symbolic link in it may
//! lead out of it. The kernel resolves every path as if the root were `/`; nothing is resolved as text, except links
//! whose end does not exist yet.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat, statat},
    io::Errno,
};

/// What a missing mount point is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// An empty file.
    File,
}

/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;
/// How often a resolution is tried again after something was renamed during it.
const MAX_RACES: u32 = 128;

/// Opens a path inside `root`.
///
/// # Errors
/// What openat2(2) gives.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_with(root, path, flags, ResolveFlags::empty())
}

/// As [`open`], and refuses a path with a symbolic link in it.
///
/// # Errors
/// What openat2(2) gives; `ELOOP` for a link.
pub fn open_without_links(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_with(root, path, flags, ResolveFlags::NO_SYMLINKS)
}

fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    let mut races = 0;
    loop {
        match openat2(
            root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | resolve,
        ) {
            Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
            result => return result,
        }
    }
}

/// Opens a path inside `root` as a place (`O_PATH`), and makes what is missing on the way.
///
/// # Errors
/// What openat2(2), mkdirat(2) and mknodat(2) give.
pub fn open_or_create(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    create(root, path, kind, MAX_LINKS)
}

/// Opens the folder that holds `path`, made when it is missing, and gives the last name too.
///
/// # Errors
/// As [`open_or_create`]; `EINVAL` for a path that ends in no name.
pub fn open_parent(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, PathBuf), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok((open_or_create(root, parent, Kind::Folder)?, name.into()))
}

fn create(root: BorrowedFd<'_>, path: &Path, kind: Kind, links: u32) -> Result<OwnedFd, Errno> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let Some(parent_path) = path.parent() else {
        return Err(Errno::NOENT);
    };
    let parent = create(root, parent_path, Kind::Folder, links)?;
    let Some(name) = path.file_name() else {
        // The path ends in `..`, and what it leads out of exists by now.
        return open(root, path, OFlags::PATH);
    };
    let made = match kind {
        Kind::Folder => mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => rustix::fs::mknodat(
            &parent,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        ),
    };
    match made {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            if let Some(target) = dangling_link(parent.as_fd(), name)? {
                let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
                return create(root, &parent_path.join(target), kind, links);
            }
        }
        Err(errno) => return Err(errno),
    }
    open(root, path, OFlags::PATH)
}

fn dangling_link(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<PathBuf>, Errno> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    let target = readlinkat(parent, name, Vec::new())?;
    Ok(Some(PathBuf::from(OsStr::from_bytes(target.to_bytes()))))
}

#[cfg(test)]
mod tests;
