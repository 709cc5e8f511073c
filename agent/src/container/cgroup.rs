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
    path::{Path, PathBuf},
};

use rustix::{io::Errno, process::Pid};
use tokio::io::{Interest, unix::AsyncFd};

use super::cgroup_values::Setting;
use crate::{
    failure::{Failure, Step},
    syscalls::{self, BpfInstruction},
};

/// Where the hierarchy is mounted.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

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

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        use io::Write;
        // Without O_CREAT: a controller that is not there is an error, and not a file of that name.
        fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.path.join(file))?
            .write_all(value.as_bytes())
    }

    /// The folder, for starting processes in it.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
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
            let members = fs::read_to_string(folder.join("cgroup.procs"))?;
            all.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
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

    /// Whether a process in it or below has been killed for want of memory.
    pub fn oom_killed(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events")).is_ok_and(|events| {
            events
                .lines()
                .any(|line| line.starts_with("oom_kill ") && line != "oom_kill 0")
        })
    }

    /// Kills what is in it, waits until all has ended, and removes it.
    ///
    /// # Errors
    /// Names the step.
    pub async fn remove(&self) -> Result<(), Failure> {
        let named = || format!("remove cgroup {}", self.path.display());
        self.kill().step(named)?;
        self.wait_until_empty().await.step(named)?;
        for folder in self.tree().step(named)?.iter().rev() {
            fs::remove_dir(folder).step(named)?;
        }
        Ok(())
    }

    /// The kernel tells of every change of `populated` by making `cgroup.events` exceptional.
    async fn wait_until_empty(&self) -> io::Result<()> {
        let events = File::open(self.path.join("cgroup.events"))?;
        // SAFETY: the file stays open, and the same, as long as the object that owns it.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::PRIORITY) }
            .map_err(io::Error::from)?;
        loop {
            let mut text = String::new();
            let mut file = events.get_ref();
            file.rewind()?;
            file.read_to_string(&mut text)?;
            if text.lines().any(|line| line == "populated 0") {
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
