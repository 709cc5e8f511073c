//! The sandbox's cgroup on the host, in which its VMM and its monitor live. Version 2 only.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::event::{PollFd, PollFlags};

use super::Id;

/// The folder of all our cgroups, below the root of the tree.
const PARENT: &str = "bulkhead";

/// Why a cgroup cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has no cgroup v2.
    #[error(
        "no cgroup v2 is mounted on this host: mount one, for example at /sys/fs/cgroup: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NoVersion2,
    /// The tree said no.
    #[error("cgroup: {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

impl CgroupError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Where the host has mounted cgroup v2.
///
/// # Errors
/// [`CgroupError::NoVersion2`].
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let usual = Path::new("/sys/fs/cgroup");
    if rustix::fs::statfs(usual).is_ok_and(|fs| fs.f_type == libc::CGROUP2_SUPER_MAGIC) {
        return Ok(usual.to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .find_map(cgroup2_mount)
        .ok_or(CgroupError::NoVersion2)
}

/// The mount point of a line of mountinfo, if it is of cgroup v2 (proc_pid_mountinfo(5)).
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    (filesystem.split(' ').next() == Some("cgroup2"))
        .then(|| mount.split(' ').nth(4))
        .flatten()
        .map(PathBuf::from)
}

/// One sandbox's cgroup.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Where the sandbox's cgroup is below `mount`: at `cgroups_path` (`linux.cgroupsPath`: absolute is from the root of
    /// the tree, relative is below our own), or under its id.
    pub fn place(mount: &Path, id: &Id, cgroups_path: &str) -> Self {
        let path = match cgroups_path.strip_prefix('/') {
            Some(from_root) => mount.join(from_root.trim_start_matches('/')),
            None if cgroups_path.is_empty() => mount.join(PARENT).join(id.as_str()),
            None => mount.join(PARENT).join(cgroups_path),
        };
        Self { path }
    }

    /// The cgroup that is known to be at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, and the ones above it, and opens it.
    ///
    /// # Errors
    /// It exists, or the tree said no.
    pub fn create(&self) -> Result<OwnedFd, CgroupError> {
        let make = || fs::DirBuilder::new().mode(0o755).create(&self.path);
        let made = match (make(), self.path.parent()) {
            (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(parent).and_then(|()| make())
            }
            (made, _) => made,
        };
        made.map_err(CgroupError::io("make", &self.path))?;
        self.open()
    }

    /// Opens it.
    ///
    /// # Errors
    /// It does not exist, or the tree said no.
    pub fn open(&self) -> Result<OwnedFd, CgroupError> {
        let folder = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&self.path);
        folder
            .map(OwnedFd::from)
            .map_err(CgroupError::io("open", &self.path))
    }

    /// Kills every process in it, waits until they have gone, and removes it. None of that name is no error.
    ///
    /// # Errors
    /// The tree said no.
    pub fn remove(&self) -> Result<(), CgroupError> {
        match fs::remove_dir(&self.path) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => self.kill_all()?,
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(CgroupError::io("remove", &self.path)(e));
            }
            _ => return Ok(()),
        }
        fs::remove_dir(&self.path).map_err(CgroupError::io("remove", &self.path))
    }

    /// Moves the calling process to the nearest cgroup above that takes it, so that this one can be removed.
    ///
    /// # Errors
    /// None of them takes it.
    pub fn leave(&self) -> Result<(), CgroupError> {
        let mut result = Err(CgroupError::NoVersion2);
        for above in self.path.ancestors().skip(1) {
            let procs = above.join("cgroup.procs");
            // Not `fs::write`: above the tree's root it would make a file.
            let moved = File::options()
                .write(true)
                .open(&procs)
                .and_then(|mut file| file.write_all(b"0"));
            match moved {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => result = Err(CgroupError::io("write", &procs)(e)),
            }
        }
        result
    }

    fn kill_all(&self) -> Result<(), CgroupError> {
        let kill = self.path.join("cgroup.kill");
        fs::write(&kill, "1").map_err(CgroupError::io("write", &kill))?;
        let path = self.path.join("cgroup.events");
        let wait = || -> io::Result<()> {
            let events = File::open(&path)?;
            while is_populated(&io::read_to_string(&events)?) {
                wait_for_change(events.as_fd())?;
                rustix::fs::seek(&events, rustix::fs::SeekFrom::Start(0))?;
            }
            Ok(())
        };
        wait().map_err(CgroupError::io("read", &path))
    }
}

/// Whether the text of `cgroup.events` says that there is a live process.
fn is_populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

/// Waits until the kernel says that `cgroup.events` has another text than the one that was read.
fn wait_for_change(events: BorrowedFd<'_>) -> io::Result<()> {
    let mut polled = [PollFd::from_borrowed_fd(events, PollFlags::PRI)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_among_others() {
        let line = "35 27 0:30 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(line), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(
            cgroup2_mount("36 27 0:31 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu"),
            None
        );
        assert_eq!(cgroup2_mount("nonsense"), None);
    }

    #[test]
    fn a_cgroups_path_is_from_the_root_or_from_ours() {
        let id = "a".parse().expect("valid id");
        let at = |path| Cgroup::place(Path::new("/c"), &id, path).path().to_owned();
        assert_eq!(at(""), PathBuf::from("/c/bulkhead/a"));
        assert_eq!(at("/pods/x"), PathBuf::from("/c/pods/x"));
        assert_eq!(at("pods/x"), PathBuf::from("/c/bulkhead/pods/x"));
    }

    #[test]
    fn populated_is_read_from_its_line() {
        assert!(is_populated("populated 1\nfrozen 0\n"));
        assert!(!is_populated("populated 0\nfrozen 0\n"));
    }
}
