//! The host's cgroup tree as the file system that it is: folders, controllers, limits. Version 2 only.

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

use super::{CgroupError, limits::Setting};

/// What limits and the callers' statistics need, as far as the host has it.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

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

/// Says that no process is in the cgroup or below; none of that name is as well.
pub fn ensure_free(cgroup: &Path) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.events");
    match fs::read_to_string(&path) {
        Ok(events) if is_populated(&events) => Err(CgroupError::InUse(cgroup.to_owned())),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(CgroupError::io("read", &path)(e)),
        _ => Ok(()),
    }
}

/// Makes the cgroup and those above it, which get the controllers.
pub fn make(cgroup: &Path) -> Result<(), CgroupError> {
    let parent = cgroup.parent().unwrap_or(cgroup);
    fs::create_dir_all(parent).map_err(CgroupError::io("make", parent))?;
    enable_controllers(parent);
    match fs::DirBuilder::new().mode(0o755).create(cgroup) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(CgroupError::io("make", cgroup)(e)),
        _ => Ok(()),
    }
}

/// Hands the controllers down to the children of `parent`. What cannot be handed down is told by the limit that needs it.
fn enable_controllers(parent: &Path) {
    let mut path: Vec<&Path> = parent
        .ancestors()
        .take_while(|folder| folder.join("cgroup.controllers").exists())
        .collect();
    // From the top: a cgroup can pass on what it was given.
    path.reverse();
    for folder in path {
        let words = |file| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let (offered, enabled) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
        let has = |words: &str, name: &str| words.split_ascii_whitespace().any(|word| word == name);
        let missing = CONTROLLERS
            .into_iter()
            .filter(|name| has(&offered, name) && !has(&enabled, name))
            .collect::<Vec<_>>();
        // One with processes of its own would become a domain of threads by it, and its children unusable. The root may.
        let is_root = !folder.join("cgroup.type").exists();
        if !missing.is_empty() && !is_root && !words("cgroup.procs").is_empty() {
            tracing::debug!(folder = %folder.display(), "processes in it: no controllers enabled");
            return;
        }
        for name in missing {
            let file = folder.join("cgroup.subtree_control");
            if let Err(error) = write_existing(&file, &format!("+{name}")) {
                tracing::debug!(controller = name, folder = %folder.display(), %error, "controller not enabled");
            }
        }
    }
}

/// Opens the cgroup, for processes to be born in it.
pub fn open(cgroup: &Path) -> Result<OwnedFd, CgroupError> {
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(cgroup)
        .map(OwnedFd::from)
        .map_err(CgroupError::io("open", cgroup))
}

/// Writes the limits.
pub fn limit(cgroup: &Path, settings: &[Setting]) -> Result<(), CgroupError> {
    for Setting { file, value, field } in settings {
        match (write_existing(&cgroup.join(file), value), field) {
            (Ok(()), _) => {}
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(file, "the host cannot limit this");
            }
            (Err(error), Some(field)) if error.kind() == io::ErrorKind::NotFound => {
                let controller = file.split('.').next().unwrap_or(file);
                return Err(CgroupError::NoController {
                    field: field.clone(),
                    file,
                    controller,
                    parent: cgroup.parent().unwrap_or(cgroup).to_owned(),
                });
            }
            (Err(source), field) => {
                return Err(CgroupError::Limit {
                    field: field.clone().unwrap_or_else(|| (*file).to_owned()),
                    file,
                    value: value.clone(),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// What a file of the cgroup says, if it is there and says a number.
pub fn number(cgroup: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(cgroup.join(file)).ok()?.trim().parse().ok()
}

/// Removes the cgroup and those below it, killing every process in them first. None of that name is no error.
pub fn remove(cgroup: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(cgroup) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(CgroupError::io("remove", cgroup)(e)),
        _ => return Ok(()),
    }
    kill_all(cgroup)?;
    remove_empty(cgroup).map_err(CgroupError::io("remove", cgroup))
}

/// Kills every process in the cgroup and below, and waits until they have gone. None of that name is no error.
pub fn kill_all(cgroup: &Path) -> Result<(), CgroupError> {
    let kill = cgroup.join("cgroup.kill");
    match write_existing(&kill, "1") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(CgroupError::io("write", &kill))?,
    }
    let path = cgroup.join("cgroup.events");
    let wait = || -> io::Result<()> {
        let events = File::open(&path)?;
        while is_populated(&io::read_to_string(&events)?) {
            wait_for_change(events.as_fd())?;
            rustix::fs::seek(&events, rustix::fs::SeekFrom::Start(0))?;
        }
        Ok(())
    };
    match wait() {
        // Who else keeps it has removed it meanwhile.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        result => result.map_err(CgroupError::io("read", &path)),
    }
}

/// Removes a cgroup in which no process is, and those below it.
fn remove_empty(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Moves the calling process into the cgroup.
pub fn join(cgroup: &Path) -> Result<(), CgroupError> {
    let procs = cgroup.join("cgroup.procs");
    write_existing(&procs, "0").map_err(CgroupError::io("write", &procs))
}

/// Moves the calling process to the nearest cgroup above that takes it.
pub fn leave(cgroup: &Path) -> Result<(), CgroupError> {
    let mut result = Err(CgroupError::NoVersion2);
    for above in cgroup.ancestors().skip(1) {
        let procs = above.join("cgroup.procs");
        match write_existing(&procs, "0") {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => result = Err(CgroupError::io("write", &procs)(e)),
        }
    }
    result
}

/// Not `fs::write`: where no such file is, none is made.
fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
}

/// Whether the text of `cgroup.events` says that there is a live process in the cgroup or below.
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
    fn populated_is_read_from_its_line() {
        assert!(is_populated("populated 1\nfrozen 0\n"));
        assert!(!is_populated("populated 0\nfrozen 0\n"));
    }

    #[test]
    fn a_limit_without_its_controller_names_both() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cgroup = folder.path().join("child");
        fs::create_dir(&cgroup).expect("a folder");
        let setting = |field: Option<&str>| Setting {
            file: "cpuset.cpus",
            value: "0".to_owned(),
            field: field.map(str::to_owned),
        };
        limit(&cgroup, &[setting(None)]).expect("a wish yields");
        let error = limit(&cgroup, &[setting(Some("linux.resources.cpu.cpus"))]).expect_err("no such file");
        let text = error.to_string();
        assert!(
            text.starts_with("linux.resources.cpu.cpus: ") && text.contains("controller \"cpuset\""),
            "{text}"
        );
    }
}
