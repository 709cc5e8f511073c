//! The mounts that make a container's root file system, as containerd describes them. They are made in the shim's own mount
//! namespace, and so vanish with it.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use containerd_shim_protos::types::mount::Mount;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// The longest text of options that mount(2) takes: a page, with the zero at its end.
const MAX_OPTIONS: usize = 4095;

/// The options by which an overlay names folders.
const LAYERS: [&str; 3] = ["lowerdir", "upperdir", "workdir"];

/// Why a root file system is not there.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The system call failed.
    #[error("mount {kind} {origin:?} at {}: {source}", target.display())]
    Mount {
        /// The file system's type.
        kind: String,
        /// What is mounted.
        origin: String,
        /// Where.
        target: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A folder of an overlay is not there.
    #[error("mount overlay at {}: {option} {}: {source}", target.display(), folder.display())]
    Layer {
        /// Where.
        target: PathBuf,
        /// The option that names the folder.
        option: String,
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// More layers than the kernel takes at once.
    #[error("mount {kind} at {}: the options are longer than {MAX_OPTIONS} bytes", target.display())]
    TooLong {
        /// The file system's type.
        kind: String,
        /// Where.
        target: PathBuf,
    },
    /// The folder cannot be made.
    #[error("make {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A mounted root file system. It is unmounted when this is dropped.
#[derive(Debug)]
pub struct Rootfs {
    target: PathBuf,
    mounted: usize,
}

impl Rootfs {
    /// Mounts it at `target`, which is made if need be.
    ///
    /// # Errors
    /// See [`RootfsError`]; nothing is mounted then.
    pub fn mount(mounts: &[Mount], target: PathBuf) -> Result<Self, RootfsError> {
        let mut rootfs = Self { target, mounted: 0 };
        for mount in mounts {
            let target = rootfs.target.join(mount.target.trim_start_matches('/'));
            std::fs::create_dir_all(&target).map_err(|source| RootfsError::Folder {
                path: target.clone(),
                source,
            })?;
            mount_one(mount, &target)?;
            rootfs.mounted += 1;
        }
        Ok(rootfs)
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        for _ in 0..self.mounted {
            if let Err(error) = rustix::mount::unmount(&self.target, UnmountFlags::DETACH) {
                tracing::warn!(%error, target = %self.target.display(), "not unmounted");
            }
        }
    }
}

/// Gives the calling process, which has one thread, its own mount namespace. Mounts of the host arrive there, none leaves it.
/// Those that are made there are shared with the namespaces of its children, so that they can be unmounted everywhere.
///
/// # Errors
/// The process may not.
pub fn leave_mount_namespace() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    for propagation in [MountPropagationFlags::DOWNSTREAM, MountPropagationFlags::SHARED] {
        rustix::mount::mount_change("/", propagation | MountPropagationFlags::REC)?;
    }
    Ok(())
}

fn mount_one(mount: &Mount, target: &Path) -> Result<(), RootfsError> {
    let failed = |source: io::Error| RootfsError::Mount {
        kind: mount.type_.clone(),
        origin: mount.source.clone(),
        target: target.to_owned(),
        source,
    };
    let (flags, data) = parse(&mount.options);
    let is_bind = mount.type_ == "bind" || flags.contains(MountFlags::BIND);
    if is_bind {
        let bound = match flags.contains(MountFlags::REC) {
            true => rustix::mount::mount_bind_recursive(&mount.source, target),
            false => rustix::mount::mount_bind(&mount.source, target),
        };
        bound.map_err(|errno| failed(errno.into()))?;
        let change = flags - MountFlags::BIND - MountFlags::REC;
        if !change.is_empty() {
            rustix::mount::mount_remount(target, MountFlags::BIND | change, c"")
                .map_err(|errno| failed(errno.into()))?;
        }
        return Ok(());
    }
    let mut data = data.join(",");
    let mut _layers = Vec::new();
    if data.len() > MAX_OPTIONS && mount.type_ == "overlay" {
        (data, _layers) = with_short_layers(&data).map_err(failed)?;
    }
    if data.len() > MAX_OPTIONS {
        return Err(RootfsError::TooLong {
            kind: mount.type_.clone(),
            target: target.to_owned(),
        });
    }
    let data = std::ffi::CString::new(data).map_err(|error| failed(error.into()))?;
    rustix::mount::mount(
        mount.source.as_str(),
        target,
        mount.type_.as_str(),
        flags,
        data.as_c_str(),
    )
    .map_err(|errno| absent_layer(mount, target).unwrap_or_else(|| failed(errno.into())))
}

/// The first folder of an overlay that is not there: the kernel does not say which.
fn absent_layer(mount: &Mount, target: &Path) -> Option<RootfsError> {
    let options = mount.options.iter().filter_map(|option| option.split_once('='));
    let mut folders = options
        .filter(|(option, _)| LAYERS.contains(option))
        .flat_map(|(option, folders)| folders.split(':').map(move |folder| (option, folder)));
    folders.find_map(|(option, folder)| {
        let source = std::fs::metadata(folder).err()?;
        Some(RootfsError::Layer {
            target: target.to_owned(),
            option: option.to_owned(),
            folder: folder.into(),
            source,
        })
    })
}

/// Names the lower layers by descriptors, which are to be kept until the mount.
fn with_short_layers(data: &str) -> io::Result<(String, Vec<File>)> {
    let mut layers = Vec::new();
    let mut options = Vec::new();
    for option in data.split(',') {
        let Some(folders) = option.strip_prefix("lowerdir=") else {
            options.push(option.to_owned());
            continue;
        };
        let mut names = Vec::new();
        for folder in folders.split(':') {
            let layer = File::open(folder)?;
            names.push(format!("/proc/self/fd/{}", layer.as_raw_fd()));
            layers.push(layer);
        }
        options.push(format!("lowerdir={}", names.join(":")));
    }
    Ok((options.join(","), layers))
}

/// The options that are flags of mount(2), and the rest, which is the file system's.
fn parse(options: &[String]) -> (MountFlags, Vec<&str>) {
    let mut flags = MountFlags::empty();
    let mut rest = Vec::new();
    for option in options {
        match option.as_str() {
            "" | "defaults" | "rw" | "suid" | "dev" | "exec" | "async" => {}
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "bind" => flags |= MountFlags::BIND,
            "rbind" => flags |= MountFlags::BIND | MountFlags::REC,
            other => rest.push(other),
        }
    }
    (flags, rest)
}
