//! What a container's guest is to see of the host's files, in the sandbox's shared folder.
//!
//! The mounts are copied, made read-only where they are to be, and only then mounted in the owner's mount namespace, from
//! where they reach the VMM as they are: what is changed of a mount later would not. The guest writes to the shared folder
//! too and is not trusted: no name in it is followed if it is a symbolic link.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::is_folder_of;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, mknodat, openat, unlinkat},
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use super::{Id, MountPoints, MountTree, StorageError, mount_points::make_mount_points, storage::failed};
use crate::oci::{BindSource, Bundle, GuestPaths};

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Copies of what the container's guest is to see, mounted nowhere yet.
pub struct SharedFiles {
    folder: String,
    rootfs: MountTree,
    /// The programs of the hooks that are run in the guest before the container's root is entered.
    hooks: Vec<MountTree>,
    binds: Vec<Bind>,
    /// What is mounted below the sources of recursive bind mounts, as paths in the guest.
    pub submounts: Vec<String>,
}

struct Bind {
    /// Its place in `mounts`.
    index: usize,
    is_folder: bool,
    tree: MountTree,
}

impl SharedFiles {
    /// The name of the folder for a container whose monitor is the calling process: see
    /// [`bulkhead_agent_protocol::is_folder_of`].
    pub fn folder_name(id: &Id) -> String {
        format!("{id}-{}", std::process::id())
    }

    /// Copies, for the folder of that name, a container's root file system, the programs of its createContainer hooks and the sources of its bind mounts,
    /// from the calling process's mount namespace.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn copy(folder: &str, bundle: &Bundle) -> Result<Self, StorageError> {
        let read_only = bundle.spec.root.as_ref().is_some_and(|root| root.readonly);
        if read_only {
            make_mount_points(bundle);
        }
        let rootfs = copy(&bundle.rootfs, true)?;
        if read_only {
            rootfs
                .make_read_only(false)
                .map_err(failed("make read-only", &bundle.rootfs))?;
        }
        let mut hooks = Vec::new();
        for hook in &bundle.spec.hooks.create_container {
            let program = Path::new(&hook.path);
            let tree = copy(program, false)?;
            tree.make_read_only(false)
                .map_err(failed("make read-only", program))?;
            hooks.push(tree);
        }
        let mut binds = Vec::with_capacity(bundle.binds.len());
        let paths = GuestPaths::new(folder);
        let mut submounts = Vec::new();
        let is_tree = |bind: &&BindSource| bind.recursive && bind.is_folder;
        let mounts = match bundle.binds.iter().find(is_tree) {
            Some(_) => {
                MountPoints::of_this_process().map_err(failed("read the mounts of", Path::new("/")))?
            }
            None => MountPoints::default(),
        };
        for source in &bundle.binds {
            let tree = copy(&source.path, source.recursive)?;
            if let Some(mappings) = &source.mappings {
                tree.map_ids(mappings)
                    .map_err(failed("map the owners of files in", &source.path))?;
            }
            if source.read_only || source.read_only_below {
                tree.make_read_only(source.read_only_below)
                    .map_err(failed("make read-only", &source.path))?;
            }
            if is_tree(&source) {
                let guest = paths.mount_in_guest(source.index);
                submounts.extend(mounts.below(&source.path).map(|below| format!("{guest}/{below}")));
            }
            binds.push(Bind {
                index: source.index,
                is_folder: source.is_folder,
                tree,
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
            rootfs,
            hooks,
            binds,
            submounts,
        })
    }

    /// Mounts them in the shared folder, which is of the calling process's mount namespace, as [`GuestPaths`] says.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn place(&self, shared: &Path) -> Result<(), StorageError> {
        let container = Place::open(shared)?.folder(&self.folder)?;
        container.folder(GuestPaths::ROOTFS)?.cover(&self.rootfs)?;
        if !self.hooks.is_empty() {
            let hooks = container.folder(GuestPaths::HOOKS)?;
            for (index, program) in self.hooks.iter().enumerate() {
                hooks.file(&index.to_string())?.cover(program)?;
            }
        }
        if self.binds.is_empty() {
            return Ok(());
        }
        let mounts = container.folder(GuestPaths::MOUNTS)?;
        self.binds.iter().try_for_each(|bind| {
            let name = bind.index.to_string();
            let target = if bind.is_folder {
                mounts.folder(&name)?
            } else {
                mounts.file(&name)?
            };
            target.cover(&bind.tree)
        })
    }

    /// Mounts them over the root of the calling process's mount namespace, each where the container has it. The process
    /// itself keeps the root that it has: who enters the namespace from outside finds these.
    ///
    /// Container engines copy files to and from a running container in the namespace of its process, and would reach the
    /// host's there. What exists in the guest alone, such as a tmpfs, is missing; so is a bind mount whose target is.
    ///
    /// # Errors
    /// The root cannot be covered.
    pub fn cover_root(&self, bundle: &Bundle) -> Result<(), StorageError> {
        let root = Path::new("/");
        let top = rustix::fs::open(root, FOLDER, Mode::empty()).map_err(failed("open", root))?;
        self.rootfs
            .mount_over(top.as_fd())
            .map_err(failed("mount over", root))?;
        for bind in &self.binds {
            let Some(mount) = bundle.spec.mounts.get(bind.index) else {
                continue;
            };
            let target = self.rootfs.find(Path::new(&mount.destination));
            if let Err(error) = target.and_then(|target| bind.tree.mount_over(target.as_fd())) {
                tracing::debug!(%error, destination = %mount.destination, "not seen from outside");
            }
        }
        Ok(())
    }

    /// Takes away what a container has in the shared folder, which is of the calling process's mount namespace. Mounts that
    /// somebody still uses go as soon as he does not.
    ///
    /// # Errors
    /// A mount that is still there. What the guest has put beside it is left.
    pub fn withdraw(shared: &Path, id: &str) -> Result<(), StorageError> {
        let shared = Place::open(shared)?;
        let folders = shared.names()?;
        folders
            .iter()
            .filter(|name| is_folder_of(name, id))
            .try_for_each(|name| Self::withdraw_folder(&shared, name))
    }

    fn withdraw_folder(shared: &Place, name: &str) -> Result<(), StorageError> {
        let Some(container) = shared.existing(name)? else {
            return Ok(());
        };
        container.uncover(GuestPaths::ROOTFS)?;
        for folder in [GuestPaths::HOOKS, GuestPaths::MOUNTS] {
            if let Some(covered) = container.existing(folder)? {
                for name in covered.names()? {
                    covered.uncover(&name)?;
                }
                container.forget(folder);
            }
        }
        shared.forget(name);
        Ok(())
    }
}

fn copy(source: &Path, recursive: bool) -> Result<MountTree, StorageError> {
    MountTree::copy(source, recursive).map_err(failed("copy the mount of", source))
}

/// A file or folder in the shared folder, by its descriptor. The path is for errors.
struct Place {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// The shared folder itself, whose path the guest has no say in.
    fn open(shared: &Path) -> Result<Self, StorageError> {
        let descriptor = rustix::fs::open(shared, FOLDER, Mode::empty()).map_err(failed("open", shared))?;
        Ok(Self {
            descriptor,
            path: shared.to_owned(),
        })
    }

    fn at(&self, name: &str, flags: OFlags) -> Result<Self, StorageError> {
        let path = self.path.join(name);
        let opened = openat(&self.descriptor, name, flags | OFlags::NOFOLLOW, Mode::empty());
        let descriptor = opened.map_err(failed("open", &path))?;
        Ok(Self { descriptor, path })
    }

    /// A folder in this one, made unless it is there.
    fn folder(&self, name: &str) -> Result<Self, StorageError> {
        match mkdirat(&self.descriptor, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) | Ok(()) => self.at(name, FOLDER),
            Err(e) => Err(failed("make", &self.path.join(name))(e)),
        }
    }

    /// A file in this folder, made unless it is there.
    fn file(&self, name: &str) -> Result<Self, StorageError> {
        let made = mknodat(
            &self.descriptor,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        );
        if let Err(e) = made
            && e != Errno::EXIST
        {
            return Err(failed("make", &self.path.join(name))(e));
        }
        self.at(name, OFlags::PATH | OFlags::CLOEXEC)
    }

    /// A folder in this one, if it is there.
    fn existing(&self, name: &str) -> Result<Option<Self>, StorageError> {
        let path = self.path.join(name);
        match openat(&self.descriptor, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(descriptor) => Ok(Some(Self { descriptor, path })),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(failed("open", &path)(e)),
        }
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let failed = |e| failed::<Errno>("read", &self.path)(e);
        let opened = openat(
            &self.descriptor,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let mut names = Vec::new();
        for entry in Dir::new(opened.map_err(failed)?).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Mounts a tree over it.
    fn cover(&self, tree: &MountTree) -> Result<(), StorageError> {
        tree.mount_over(self.descriptor.as_fd())
            .map_err(failed("mount over", &self.path))
    }

    /// Unmounts what covers a file or folder in this one, and removes that.
    fn uncover(&self, name: &str) -> Result<(), StorageError> {
        let covered = match self.at(name, OFlags::PATH | OFlags::CLOEXEC) {
            Ok(covered) => covered,
            // The guest may have removed it, where nothing covered it.
            Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let path = format!("/proc/self/fd/{}", covered.descriptor.as_raw_fd());
        match unmount(path, UnmountFlags::DETACH) {
            // It was not covered.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(failed("unmount", &covered.path)(e)),
        }
        self.forget(name);
        Ok(())
    }

    /// Removes an empty file or folder in this one. It holds a name in memory and no more, so that it can stay.
    fn forget(&self, name: &str) {
        let removed = match unlinkat(&self.descriptor, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTDIR) => unlinkat(&self.descriptor, name, AtFlags::empty()),
            removed => removed,
        };
        if let Err(error) = removed {
            tracing::debug!(%error, path = %self.path.join(name).display(), "not removed");
        }
    }
}
