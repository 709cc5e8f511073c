//! Copies of volumes whose content is replaced as a whole, as Kubernetes' configMaps are: the copies are replaced in the same
//! way, and programs in containers that watch them by inotify(7) see what they would see on a host.

use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use bulkhead_agent_protocol::{
    VOLUME_FOLDER, is_folder_of,
    messages::{UpdateVolumeRequest, Volume},
};
use rustix::{
    fs::{AtFlags, Dir, Mode, mkdirat, openat, readlinkat, renameat, symlinkat, unlinkat},
    io::Errno,
};

use crate::{
    container::copy_up::{self, FOLDER},
    error::AgentError,
    failure::Step,
};

/// The link to the folder that has the content.
const DATA: &CStr = c"..data";
/// Where that link is made before it takes the old one's place.
const NEW_DATA: &CStr = c"..data_tmp";

/// Makes the copy of a volume.
///
/// # Errors
/// Names the target.
pub fn copy(volume: &Volume) -> Result<(), AgentError> {
    let target = checked(volume)?;
    let step = || format!("copy volume {}", volume.source);
    fs::create_dir_all(target).step(step)?;
    let source = open(&volume.source).step(step)?;
    copy_up::copy(source.as_fd(), open(&volume.target).step(step)?.as_fd()).step(step)?;
    Ok(())
}

/// Replaces the content of a copy by what is in the folder `data` of the volume now.
///
/// # Errors
/// Names the target and the step.
pub fn update(request: &UpdateVolumeRequest) -> Result<(), AgentError> {
    let volume = request.volume.get_or_default();
    checked(volume)?;
    let mut parts = Path::new(&request.data).components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
        return Err(AgentError::Request(format!(
            "\"{}\" is no name of a folder",
            request.data
        )));
    };
    let data = CString::new(request.data.as_str()).map_err(|error| AgentError::Request(error.to_string()))?;
    let replaced = open(&volume.target).and_then(|target| replace(&open(&volume.source)?, &target, &data));
    replaced.step(|| format!("update volume {}", volume.target))?;
    Ok(())
}

fn checked(volume: &Volume) -> Result<&Path, AgentError> {
    let target = Path::new(&volume.target);
    let is_ours =
        target.starts_with(VOLUME_FOLDER) && !target.components().any(|part| part == Component::ParentDir);
    if is_ours {
        Ok(target)
    } else {
        Err(AgentError::Request(format!(
            "volume target \"{}\" is not in {VOLUME_FOLDER}",
            volume.target
        )))
    }
}

fn open(folder: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(folder, FOLDER, Mode::empty())
}

fn replace(source: &OwnedFd, target: &OwnedFd, data: &CStr) -> Result<(), Errno> {
    let old = readlinkat(target, DATA, Vec::new())?;
    if old.as_c_str() == data {
        return Ok(());
    }
    let new = openat(source, data, FOLDER, Mode::empty())?;
    mkdirat(target, data, Mode::from_raw_mode(0o755))?;
    let copy = openat(target, data, FOLDER, Mode::empty())?;
    copy_up::copy(new.as_fd(), copy.as_fd())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let names = names(&copy)?;
    symlinkat(data, target, NEW_DATA)?;
    renameat(target, NEW_DATA, target, DATA)?;
    link(target, &names)?;
    remove(target.as_fd(), &old)
}

/// Has a link in the volume for every name in its content, and none for others.
fn link(target: &OwnedFd, names: &HashSet<CString>) -> Result<(), Errno> {
    for name in names {
        let mut to = DATA.to_bytes().to_vec();
        to.push(b'/');
        to.extend_from_slice(name.to_bytes());
        match symlinkat(to.as_slice(), target, name.as_c_str()) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
    }
    for name in self::names(target)? {
        let is_visible = !name.to_bytes().starts_with(b"..");
        if is_visible && !names.contains(&name) {
            unlinkat(target, name.as_c_str(), AtFlags::empty())?;
        }
    }
    Ok(())
}

fn names(folder: &OwnedFd) -> Result<HashSet<CString>, Errno> {
    let entries = Dir::read_from(folder)?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    let own = |name: &Result<CString, Errno>| {
        name.as_ref()
            .map_or(true, |name| name.as_c_str() != c"." && name.as_c_str() != c"..")
    };
    names.filter(own).collect()
}

fn remove(folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let inner = openat(folder, name, FOLDER, Mode::empty())?;
    for entry in names(&inner)? {
        match unlinkat(&inner, entry.as_c_str(), AtFlags::empty()) {
            Err(Errno::ISDIR) => remove(inner.as_fd(), &entry)?,
            removed => removed?,
        }
    }
    unlinkat(folder, name, AtFlags::REMOVEDIR)
}

/// Removes the copies that a deleted container has had.
pub fn release(container: &str) {
    for folder in fs::read_dir(VOLUME_FOLDER).into_iter().flatten().flatten() {
        let is_its_own = folder
            .file_name()
            .to_str()
            .is_some_and(|name| is_folder_of(name, container));
        if is_its_own && let Err(error) = fs::remove_dir_all(folder.path()) {
            eprintln!("bulkhead-agent: {}: {error}", folder.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn at(folder: &Path) -> OwnedFd {
        open(folder.to_str().unwrap()).unwrap()
    }

    #[test]
    fn a_copy_follows_its_volume() {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |data: &str, files: &[(&str, &str)]| {
            for (name, content) in files {
                let file = source.path().join(data).join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, content).unwrap();
            }
        };
        write("..1", &[("kept", "old"), ("dropped", ""), ("deep/er", "")]);
        symlink("..1", source.path().join("..data")).unwrap();
        for name in ["kept", "dropped", "deep"] {
            symlink(format!("..data/{name}"), source.path().join(name)).unwrap();
        }
        copy_up::copy(at(source.path()).as_fd(), at(target.path()).as_fd()).unwrap();
        let read = |name: &str| fs::read_to_string(target.path().join(name));
        assert_eq!(read("kept").unwrap(), "old");

        write("..2", &[("kept", "new"), ("added", "more")]);
        for _ in 0..2 {
            replace(&at(source.path()), &at(target.path()), c"..2").unwrap();
            assert_eq!(read("kept").unwrap(), "new");
            assert_eq!(read("added").unwrap(), "more");
            let mut left: Vec<_> = fs::read_dir(target.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort_unstable();
            assert_eq!(left, ["..2", "..data", "added", "kept"]);
        }
    }

    #[test]
    fn only_what_is_a_copy_is_touched() {
        let request = |target: &str, data: &str| UpdateVolumeRequest {
            volume: Some(Volume {
                target: target.into(),
                ..Volume::default()
            })
            .into(),
            data: data.into(),
            ..UpdateVolumeRequest::default()
        };
        let below = format!("{VOLUME_FOLDER}/a/../../b");
        for (target, data) in [
            ("/etc", "..1"),
            (&below, "..1"),
            (VOLUME_FOLDER, "../1"),
            (VOLUME_FOLDER, ""),
        ] {
            assert!(
                matches!(update(&request(target, data)), Err(AgentError::Request(_))),
                "{target} {data}"
            );
        }
    }
}
