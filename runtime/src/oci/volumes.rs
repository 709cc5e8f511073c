//! Volumes whose content is replaced as a whole: Kubernetes' configMap, secret, downwardAPI and projected volumes.
//!
//! The kubelet writes a new folder, and then turns the link `..data` to it, through which all files of the volume are found.
//! A program watches for that by inotify(7), which a file system of the host's cannot tell a guest. So the guest has a copy of
//! its own, and is told when to replace it.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::BindSource;

/// The link that is turned.
pub const DATA: &str = "..data";

/// The most that is copied, in bytes and in files: a configMap or secret has 1 MiB at most, and a projected volume some of them.
const MAX_BYTES: u64 = 8 << 20;
const MAX_FILES: usize = 1024;

/// Such a volume among a container's bind mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its place in `mounts`.
    pub index: usize,
    /// An absolute path on the host.
    pub path: PathBuf,
}

impl Volume {
    /// Those among the bind mounts. One that the container may write to, or that is too big to be copied, is none.
    pub fn among(binds: &[BindSource]) -> Vec<Self> {
        let volumes = binds.iter().filter(|bind| {
            bind.is_folder
                && bind.read_only
                && bind.mappings.is_none()
                && data(&bind.path).is_some_and(|data| is_small(&bind.path.join(data)))
        });
        let described = volumes.map(|bind| Self {
            index: bind.index,
            path: bind.path.clone(),
        });
        described.collect()
    }
}

/// The name of the folder that has the volume's content now, if `volume` is one of this kind.
pub fn data(volume: &Path) -> Option<String> {
    let data = fs::read_link(volume.join(DATA)).ok()?;
    let name = data.file_name().filter(|name| *name == data.as_os_str());
    name.and_then(OsStr::to_str).map(str::to_owned)
}

fn is_small(folder: &Path) -> bool {
    let mut left = (MAX_BYTES, MAX_FILES);
    weigh(folder, &mut left).is_ok_and(|fits| fits)
}

/// Whether what is in the folder fits into what is left.
fn weigh(folder: &Path, left: &mut (u64, usize)) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let Some(bytes) = left.0.checked_sub(metadata.len()) else {
            return Ok(false);
        };
        let Some(files) = left.1.checked_sub(1) else {
            return Ok(false);
        };
        *left = (bytes, files);
        if metadata.is_dir() && !weigh(&entry.path(), left)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn bind(path: &Path, read_only: bool) -> BindSource {
        BindSource {
            index: 3,
            path: path.to_owned(),
            is_folder: true,
            recursive: true,
            read_only,
            read_only_below: false,
            mappings: None,
        }
    }

    #[test]
    fn a_volume_is_told_by_its_link_and_copied_if_it_is_small() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let folder = folder.path();
        assert_eq!(Volume::among(&[bind(folder, true)]), []);
        fs::create_dir_all(folder.join("..2026/sub")).expect("writable");
        fs::write(folder.join("..2026/sub/key"), "value").expect("writable");
        symlink("..2026", folder.join(DATA)).expect("writable");
        assert_eq!(data(folder).as_deref(), Some("..2026"));
        assert_eq!(Volume::among(&[bind(folder, false)]), []);
        let volume = Volume {
            index: 3,
            path: folder.to_owned(),
        };
        assert_eq!(Volume::among(&[bind(folder, true)]), [volume]);
        let big = fs::File::create(folder.join("..2026/big")).expect("writable");
        big.set_len(MAX_BYTES).expect("a sparse file");
        assert_eq!(Volume::among(&[bind(folder, true)]), []);
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_none() {
        let folder = tempfile::tempdir().expect("temporary folder");
        symlink("../elsewhere", folder.path().join(DATA)).expect("writable");
        assert_eq!(data(folder.path()), None);
        assert_eq!(data(Path::new("/nonexistent")), None);
    }
}
