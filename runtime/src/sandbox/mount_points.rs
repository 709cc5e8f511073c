//! The files and folders of a root over which the container's file systems are mounted.

use std::{
    fs::File,
    io,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::oci::Bundle;

/// Makes the files and folders over which the container's file systems are mounted, while the root can still be
/// written: the agent sees it read-only. What cannot be made is left to the agent, which names the mount that fails.
pub fn make_mount_points(bundle: &Bundle) {
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
            .any(|bind| bind.index == index && !bind.is_folder)
            || bundle
                .disks
                .mounts
                .iter()
                .any(|disk| disk.index == index && disk.file_system.is_none());
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
    use std::{fs, os::unix::fs::symlink};

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
