//! The folder that a sandbox shares with its guest.
//!
//! It is a small file system in memory that exists in the monitor's mount namespace alone; what the guest is to see
//! is bind-mounted into it. When the monitor has gone, so has the namespace, and with it every mount.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Component, Path, PathBuf},
};

use bulkhead_agent_protocol::hook::Hooks;
use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::{StateError, StateFolder, id_mapped::map_ids, mount_attributes};
use crate::oci::{BindSource, Bundle, GuestPaths, IdMappings};

/// The guest sees this file system, and is not to fill the host's memory through it: it has the mount points only.
const LIMITS: &std::ffi::CStr = c"mode=0755,size=1m,nr_inodes=8k";

/// Why a sandbox's files cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The folder below the state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// A system call failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> StorageError {
    move |source| StorageError::Io {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The shared folder of a sandbox.
#[derive(Debug)]
pub struct SharedFolder {
    path: PathBuf,
    handle: File,
}

impl SharedFolder {
    /// Gives the calling process, which has one thread, its own mount namespace, and makes the folder there. Mounts of
    /// the host go on arriving in that namespace, none leaves it.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn create(state: &StateFolder) -> Result<Self, StorageError> {
        let path = state.make(StateFolder::SHARED)?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace for", &path))?;
        let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", downstream).map_err(failed("detach mounts of", Path::new("/")))?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("bulkhead", &path, "tmpfs", flags, LIMITS).map_err(failed("mount", &path))?;
        // The VMM's namespace, a copy of this one, gets what is mounted here later.
        rustix::mount::mount_change(&path, MountPropagationFlags::SHARED).map_err(failed("share", &path))?;
        let handle = File::open(&path).map_err(failed("open", &path))?;
        Ok(Self { path, handle })
    }

    /// The folder itself.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Puts a container's root file system and the sources of its bind mounts into the folder, as [`GuestPaths`] says.
    ///
    /// Called before the VMM is started: that a mount is read-only would reach it too late otherwise.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn add_container(&self, paths: GuestPaths<'_>, bundle: &Bundle) -> Result<(), StorageError> {
        let read_only = bundle.spec.root.as_ref().is_some_and(|root| root.readonly);
        if read_only {
            make_mount_points(bundle);
        }
        let rootfs = self.folder(&paths.rootfs())?;
        let attributes = Attributes {
            recursive: true,
            read_only,
            ..Attributes::default()
        };
        bind(&bundle.rootfs, &rootfs, attributes)?;
        self.add_hooks(paths, &bundle.spec.hooks)?;
        if bundle.binds.is_empty() {
            return Ok(());
        }
        self.folder(&paths.mounts())?;
        for source in &bundle.binds {
            let relative = paths.mount(source.index);
            let target = if source.is_folder {
                self.folder(&relative)?
            } else {
                self.file(&relative)?
            };
            bind(&source.path, &target, Attributes::of(source))?;
        }
        Ok(())
    }

    /// The programs of the hooks that are run in the guest before the container's root is entered.
    fn add_hooks(&self, paths: GuestPaths<'_>, hooks: &Hooks) -> Result<(), StorageError> {
        if hooks.create_container.is_empty() {
            return Ok(());
        }
        self.folder(&paths.hooks())?;
        let attributes = Attributes {
            read_only: true,
            ..Attributes::default()
        };
        hooks
            .create_container
            .iter()
            .enumerate()
            .try_for_each(|(index, hook)| {
                bind(Path::new(&hook.path), &self.file(&paths.hook(index))?, attributes)
            })
    }

    fn folder(&self, relative: &str) -> Result<PathBuf, StorageError> {
        let path = self.path.join(relative);
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
        made.map_err(failed("make", &path))?;
        Ok(path)
    }

    fn file(&self, relative: &str) -> Result<PathBuf, StorageError> {
        let path = self.path.join(relative);
        File::create_new(&path).map_err(failed("make", &path))?;
        Ok(path)
    }

    /// Takes the folder away, so that its mount point can be removed while the namespace is still in use.
    ///
    /// # Errors
    /// `umount2`'s.
    pub fn unmount(path: &Path) -> Result<(), StorageError> {
        match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
            Err(e) => Err(failed("unmount", path)(e)),
        }
    }
}

/// How a file or folder of the host is to appear.
#[derive(Debug, Clone, Copy, Default)]
struct Attributes<'a> {
    recursive: bool,
    read_only: bool,
    recursively_read_only: bool,
    mappings: Option<&'a IdMappings>,
}

impl<'a> Attributes<'a> {
    fn of(source: &'a BindSource) -> Self {
        Self {
            recursive: source.recursive,
            read_only: source.read_only,
            recursively_read_only: source.recursively_read_only,
            mappings: source.mappings.as_ref(),
        }
    }
}

/// Mounts a copy of what is mounted at `source`, which is complete before anybody sees it.
fn bind(source: &Path, target: &Path, attributes: Attributes<'_>) -> Result<(), StorageError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, attributes.recursive);
    let tree = open_tree(CWD, source, flags).map_err(failed("bind-mount", source))?;
    if let Some(mappings) = attributes.mappings {
        map_ids(&tree, mappings).map_err(failed("map the owners of files in", source))?;
    }
    if attributes.read_only {
        mount_attributes::set_read_only(&tree, attributes.recursively_read_only)
            .map_err(failed("make read-only", source))?;
    }
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("bind-mount", source))
}

/// Makes the files and folders over which the container's file systems are mounted, while the root can still be
/// written: the agent sees it read-only. What cannot be made is left to the agent, which names the mount that fails.
fn make_mount_points(bundle: &Bundle) {
    let Ok(root) = File::open(&bundle.rootfs) else {
        return;
    };
    let mounts = &bundle.spec.mounts;
    for (index, mount) in mounts.iter().enumerate() {
        let destination = Path::new(&mount.destination);
        // A destination below an earlier mount is made in that one, in the guest.
        let covered = mounts.iter().take(index).any(|earlier| {
            earlier.destination != mount.destination && destination.starts_with(&earlier.destination)
        });
        if covered {
            continue;
        }
        let is_file = bundle
            .binds
            .iter()
            .any(|bind| bind.index == index && !bind.is_folder);
        if let Err(error) = make_in_root(&root, destination, is_file) {
            tracing::debug!(%error, destination = %mount.destination, "mount point not made");
        }
    }
}

/// `mkdir -p` below `root`, from which no symbolic link and no `..` leads out; the last part can be a file.
fn make_in_root(root: &File, path: &Path, is_file: bool) -> io::Result<()> {
    let open = |path: &Path| {
        rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
    };
    let mut done = PathBuf::new();
    let mut parent = open(Path::new("."))?;
    let mut parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .peekable();
    while let Some(part) = parts.next() {
        done.push(part);
        match open(&done) {
            Err(rustix::io::Errno::NOENT) if is_file && parts.peek().is_none() => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, part.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
            }
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                parent = open(&done)?;
            }
            found => parent = found?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn mount_points_are_made_inside_the_root_only() {
        let outside = tempfile::tempdir().expect("temporary folder");
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = |path: &str| folder.path().join(path);
        symlink(outside.path(), at("link")).expect("symlink");
        fs::create_dir(at("real")).expect("folder");
        symlink("/real", at("alias")).expect("symlink");
        let root = File::open(folder.path()).expect("folder");
        let make = |path: &str, is_file| make_in_root(&root, Path::new(path), is_file);
        make("/a/b", false).expect("new folders");
        make("/a/b", false).expect("there already");
        make("/alias/file", true).expect("a file behind a link that stays inside");
        make("/link/e", false).expect_err("a link whose target is not there, seen from inside");
        make("/real/file/f", false).expect_err("below a file");
        assert!(at("a/b").is_dir() && at("real/file").is_file());
        assert_eq!(fs::read_dir(outside.path()).expect("folder").count(), 0);
    }
}
