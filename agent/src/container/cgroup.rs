//! The cgroup of a container.
//!
//! All are children of the guest's root cgroup. Where the container's cgroupsPath says that it should be is a matter
//! of the host: the sandbox as a whole is there.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Uid, chown},
    io::Errno,
    process::Pid,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::cgroup_values::Setting;
use crate::{
    failure::{Failure, Step},
    syscalls::{self, BpfInstruction},
};

/// Where the hierarchy is mounted.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The file that tells of processes and of freezing.
pub const EVENTS: &str = "cgroup.events";

/// The kernel's list of the files in a cgroup that its user may write.
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";

/// The file that tells of want of memory.
const MEMORY_EVENTS: &str = "memory.events";

/// A cgroup of one container.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    folder: File,
}

impl Cgroup {
    /// Makes the cgroup with all its limits.
    ///
    /// # Errors
    /// Names the field whose limit the kernel refuses; nothing is left then.
    pub fn create(
        container: &str,
        settings: &[Setting],
        devices: &[BpfInstruction],
    ) -> Result<Self, Failure> {
        let path = Path::new(MOUNT_POINT).join(format!("container-{container}"));
        let named = || format!("create cgroup {}", path.display());
        fs::create_dir(&path).step(named)?;
        let made = File::open(&path).step(named).and_then(|folder| {
            let cgroup = Self {
                path: path.clone(),
                folder,
            };
            cgroup.configure(settings, devices)?;
            Ok(cgroup)
        });
        if made.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir(&path);
        }
        made
    }

    fn configure(&self, settings: &[Setting], devices: &[BpfInstruction]) -> Result<(), Failure> {
        for Setting { file, value, field } in settings {
            match self.write(file, value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Failure::new(format!("{field}: the guest's kernel has no {file}")));
                }
                result => result.step(|| format!("{field}: write \"{value}\" to {file}"))?,
            }
        }
        syscalls::attach_device_program(self.folder.as_fd(), devices).step(|| "linux.resources.devices")
    }

    /// Gives it to a user: the folder and the files that the kernel means for delegation, but no limit.
    ///
    /// # Errors
    /// Names the file.
    pub fn give_to(&self, user: Uid) -> Result<(), Failure> {
        let own = |name: &str| {
            let path = self.path.join(name);
            match chown(&path, Some(user), None) {
                // A controller that this cgroup does not have.
                Err(Errno::NOENT) => Ok(()),
                result => result.step(|| format!("give {} to the container's user", path.display())),
            }
        };
        own("")?;
        let delegated = fs::read_to_string(DELEGATED).step(|| format!("read {DELEGATED}"))?;
        delegated.lines().try_for_each(own)
    }

    /// Writes a file of it.
    ///
    /// # Errors
    /// What opening and writing it gives.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        use io::Write;
        // Without O_CREAT: a controller that is not there is an error, and not a file of that name.
        fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.path.join(file))?
            .write_all(value.as_bytes())
    }

    /// What a file of it says.
    ///
    /// # Errors
    /// What reading it gives.
    pub fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path.join(file))
    }

    /// The names of its files.
    ///
    /// # Errors
    /// What reading its folder gives.
    pub fn files(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    /// The folder, for starting processes in it.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The cgroup of that path below this one.
    ///
    /// # Errors
    /// When there is none, or the path leads elsewhere.
    pub fn below(&self, path: &str) -> Result<File, Failure> {
        let named = || format!("cgroup \"{path}\" of the container");
        let relative = Path::new(path.trim_start_matches('/'));
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !relative.components().all(inside) {
            return Err(Failure::new(format!("{}: the path leads out of it", named())));
        }
        File::open(self.path.join(relative)).step(named)
    }

    /// The cgroup below this one that a process is in: where a further process can be started when the container has
    /// distributed its controllers, and so can have no process in its own cgroup.
    ///
    /// # Errors
    /// When the process has ended, or has left this cgroup.
    pub fn of_process(&self, pid: Pid) -> io::Result<File> {
        let membership = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()))?;
        let path = membership
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .map(|path| Path::new(MOUNT_POINT).join(path))
            .filter(|path| path.starts_with(&self.path))
            .ok_or(io::ErrorKind::NotFound)?;
        File::open(path)
    }

    /// Every process in it and below.
    ///
    /// # Errors
    /// What reading its files gives.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut all = Vec::new();
        for folder in self.tree()? {
            match fs::read_to_string(folder.join("cgroup.procs")) {
                Ok(members) => all.extend(members.lines().filter_map(|line| line.parse::<i32>().ok())),
                // One of threads, whose processes are listed above it; or one that has just been removed.
                Err(error)
                    if folder != self.path
                        && matches!(
                            error.raw_os_error(),
                            Some(libc::EOPNOTSUPP | libc::ENOENT | libc::ENODEV)
                        ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Kills every process in it and below.
    ///
    /// # Errors
    /// What writing to its file gives.
    pub fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// How many processes in it and below have been killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.read(MEMORY_EVENTS)
            .map_or(0, |events| number(&events, "oom_kill"))
    }

    /// Waits until more than `known` processes have been killed for want of memory. Answers how many.
    ///
    /// # Errors
    /// What reading its files gives.
    pub async fn wait_for_oom_kill(&self, known: u64) -> io::Result<u64> {
        let mut kills = known;
        let more = |events: &str| {
            kills = number(events, "oom_kill");
            kills > known
        };
        self.wait_until(MEMORY_EVENTS, more).await?;
        Ok(kills)
    }

    /// Kills what is in it, waits until all has ended, and removes it.
    ///
    /// # Errors
    /// Names the step.
    pub async fn remove(&self) -> Result<(), Failure> {
        let named = || format!("remove cgroup {}", self.path.display());
        self.kill().step(named)?;
        let empty = |events: &str| number(events, "populated") == 0;
        self.wait_until(EVENTS, empty).await.step(named)?;
        for folder in self.tree().step(named)?.iter().rev() {
            fs::remove_dir(folder).step(named)?;
        }
        Ok(())
    }

    /// Waits until a file of events says what is waited for. The kernel tells of every change of such a file by making
    /// it exceptional.
    ///
    /// # Errors
    /// What reading the file gives.
    pub async fn wait_until(&self, file: &str, mut said: impl FnMut(&str) -> bool) -> io::Result<()> {
        let events = File::open(self.path.join(file))?;
        // SAFETY: the file stays open, and the same, as long as the object that owns it.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::PRIORITY) }
            .map_err(io::Error::from)?;
        loop {
            let mut text = String::new();
            let mut file = events.get_ref();
            file.rewind()?;
            file.read_to_string(&mut text)?;
            if said(&text) {
                return Ok(());
            }
            events.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }

    /// This cgroup and all below, parents first.
    fn tree(&self) -> io::Result<Vec<PathBuf>> {
        let mut all = vec![self.path.clone()];
        let mut next = 0;
        while let Some(folder) = all.get(next).cloned() {
            next += 1;
            let entries = match fs::read_dir(&folder) {
                Err(error) if next > 1 && error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    all.push(entry.path());
                }
            }
        }
        Ok(all)
    }
}

/// The number that stands behind `key` in a file of such lines; 0 when there is none.
pub fn number(text: &str, key: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// Lets children of the guest's root cgroup have every controller that the kernel has.
///
/// # Errors
/// What reading and writing the hierarchy's files gives.
pub fn distribute_controllers() -> Result<(), Errno> {
    let root = Path::new(MOUNT_POINT);
    let result = fs::read_to_string(root.join("cgroup.controllers")).and_then(|controllers| {
        let all: Vec<String> = controllers
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect();
        fs::write(root.join("cgroup.subtree_control"), all.join(" "))
    });
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_key() {
        let events = "low 0\nhigh 0\noom_kill_disable 7\noom 3\noom_kill 12\noom_group_kill 1\n";
        assert_eq!(number(events, "oom_kill"), 12);
        assert_eq!(number(events, "oom"), 3);
        assert_eq!(number(events, "max"), 0);
        assert_eq!(number("oom_kill \noom_kill -1", "oom_kill"), 0);
    }
}
