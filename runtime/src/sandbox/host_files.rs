//! Files of the host that `config.json` names. It may come from less trusted hands than the configuration file, which
//! therefore says in which folders such files may be.
//!
//! A file is found once and then judged by where it was found: no symbolic link, no `..` and no change of the name
//! meanwhile leads out of the folders.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat};

/// Why a file that `config.json` names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostFileError {
    /// It cannot be opened.
    #[error("{field}: {}: {source}", path.display())]
    Unreadable {
        /// Which field of `config.json` names it.
        field: &'static str,
        /// As it is named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is somewhere else.
    #[error(
        "{field}: {} is not in a folder that vm_paths in the configuration file allows ({allowed})",
        found.display()
    )]
    NotAllowed {
        /// Which field of `config.json` names it.
        field: &'static str,
        /// Where it was found.
        found: PathBuf,
        /// The folders.
        allowed: String,
    },
    /// It is a folder, a socket, a device.
    #[error("{field}: {} is not a regular file", path.display())]
    NotAFile {
        /// Which field of `config.json` names it.
        field: &'static str,
        /// As it is named.
        path: PathBuf,
    },
}

/// A file that was found where it may be.
#[derive(Debug)]
pub struct HostFile {
    /// Open for reading.
    pub file: File,
    /// Its absolute path, free of symbolic links.
    pub path: PathBuf,
}

/// Opens the regular file `path`, which `field` of `config.json` names.
///
/// # Errors
/// It is not there, not in one of the folders `allowed`, or no regular file.
pub fn open_allowed(
    field: &'static str,
    path: &Path,
    allowed: &[PathBuf],
) -> Result<HostFile, HostFileError> {
    let unreadable = |source: io::Error| HostFileError::Unreadable {
        field,
        path: path.to_owned(),
        source,
    };
    // Found without being opened: to open a device or a pipe may do something.
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| unreadable(errno.into()))?;
    let magic = format!("/proc/self/fd/{}", place.as_raw_fd());
    let found = fs::read_link(&magic).map_err(unreadable)?;
    let is_below = |folder: &PathBuf| {
        fs::canonicalize(folder).is_ok_and(|folder| found != folder && found.starts_with(folder))
    };
    if !allowed.iter().any(is_below) {
        let folders: Vec<_> = allowed
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        return Err(HostFileError::NotAllowed {
            field,
            found,
            allowed: folders.join(", "),
        });
    }
    let status = fstat(&place).map_err(|errno| unreadable(errno.into()))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(HostFileError::NotAFile {
            field,
            path: path.to_owned(),
        });
    }
    let file = File::open(&magic).map_err(unreadable)?;
    Ok(HostFile { file, path: found })
}

/// Opens the regular file `name` in or below `folder`, for reading. An absolute name has to begin with the folder's.
///
/// # Errors
/// It is not there, or leads out of the folder, or is no regular file.
pub fn open_inside(folder: &Path, name: &str) -> io::Result<File> {
    let name = Path::new(name);
    let inside = name.strip_prefix(folder).unwrap_or(name);
    let directory = File::open(folder)?;
    // A pipe that nobody writes to is not waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(&directory, inside, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::XDEV) => return Err(io::Error::other("it is outside the image's folder")),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder that is allowed, and beside it one that is not, each with a file.
    fn folders() -> (tempfile::TempDir, PathBuf, Vec<PathBuf>) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let base = root.path().canonicalize().expect("it exists");
        for folder in ["inside", "inside-not", "outside"] {
            fs::create_dir(base.join(folder)).expect("a folder");
            fs::write(base.join(folder).join("file"), folder).expect("a file");
        }
        let allowed = vec![PathBuf::from("/nonexistent"), base.join("inside")];
        (root, base, allowed)
    }

    #[test]
    fn a_file_is_judged_by_where_it_is() {
        let (_root, base, allowed) = folders();
        symlink(base.join("outside/file"), base.join("inside/leads-out")).expect("a link");
        symlink(base.join("inside/file"), base.join("outside/leads-in")).expect("a link");
        let open = |path: &str| open_allowed("vm.kernel.path", &base.join(path), &allowed);
        for path in ["inside/file", "outside/../inside/file", "outside/leads-in"] {
            assert_eq!(open(path).expect(path).path, base.join("inside/file"));
        }
        for path in [
            "outside/file",
            "inside/../outside/file",
            "inside/leads-out",
            "inside-not/file",
        ] {
            assert!(
                matches!(open(path), Err(HostFileError::NotAllowed { .. })),
                "{path}"
            );
        }
        assert!(matches!(open("inside"), Err(HostFileError::NotAllowed { .. })));
        assert!(matches!(
            open("inside/none"),
            Err(HostFileError::Unreadable { .. })
        ));
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (_root, base, allowed) = folders();
        let pipe = base.join("inside/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        fs::create_dir(base.join("inside/folder")).expect("a folder");
        for name in ["pipe", "folder"] {
            let path = base.join("inside").join(name);
            let error = open_allowed("vm.image.path", &path, &allowed).expect_err(name);
            assert!(error.to_string().ends_with("is not a regular file"), "{error}");
            open_inside(&base.join("inside"), name).expect_err(name);
        }
    }

    #[test]
    fn what_an_image_refers_to_stays_in_its_folder() {
        let (_root, base, _) = folders();
        let inside = base.join("inside");
        symlink("../outside/file", inside.join("leads-out")).expect("a link");
        symlink("file", inside.join("stays")).expect("a link");
        let absolute = inside.join("file");
        for name in ["file", "stays", absolute.to_str().expect("UTF-8")] {
            open_inside(&inside, name).expect(name);
        }
        let outside = base.join("outside/file");
        for name in [
            "../outside/file",
            "leads-out",
            outside.to_str().expect("UTF-8"),
            "/etc/passwd",
            "",
        ] {
            open_inside(&inside, name).expect_err(name);
        }
    }
}
