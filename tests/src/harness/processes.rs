//! Processes, seen through /proc.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Every process.
#[must_use]
pub fn all() -> Vec<Pid> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// The children of `ancestor`, their children, and so on; zombies are left out.
#[must_use]
pub fn descendants(ancestor: Pid) -> Vec<Pid> {
    let family: Vec<(Pid, Pid)> = all()
        .into_iter()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(family.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.retain(|pid| *pid != ancestor && !is_zombie(*pid));
    found
}

/// The descendant of `ancestor` that is called `name`; there must be exactly one.
///
/// # Panics
/// There is none, or more than one.
#[must_use]
pub fn descendant_named(ancestor: Pid, name: &str) -> Pid {
    let found: Vec<_> = descendants(ancestor)
        .into_iter()
        .filter(|pid| self::name(*pid).as_deref() == Some(name))
        .collect();
    match found[..] {
        [pid] => pid,
        _ => panic!("{} processes named {name}, not one", found.len()),
    }
}

/// A file of a process's folder in /proc.
#[must_use]
pub fn file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Its threads.
///
/// # Panics
/// The process has gone.
#[must_use]
pub fn threads(pid: Pid) -> Vec<Pid> {
    fs::read_dir(file(pid, "task"))
        .expect("the process is alive")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// What the kernel calls the process, or the thread, at most 15 bytes.
#[must_use]
pub fn name(pid: Pid) -> Option<String> {
    Some(fs::read_to_string(file(pid, "comm")).ok()?.trim_end().to_owned())
}

/// A field of /proc/PID/status.
///
/// # Panics
/// The process has gone, or the kernel knows no such field.
#[must_use]
pub fn status_field(pid: Pid, field: &str) -> String {
    let status = fs::read_to_string(file(pid, "status")).expect("the process is alive");
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {field} in {status}"))
        .trim()
        .to_owned()
}

/// A size in /proc/PID/status, in MiB.
///
/// # Panics
/// As [`status_field`]; or the field is no size.
#[must_use]
pub fn status_mib(pid: Pid, field: &str) -> u64 {
    let size = status_field(pid, field);
    let kib: u64 = size.trim_end_matches(" kB").parse().expect("a number of KiB");
    kib >> 10
}

/// Waits until the process has ended, and reaps it if it is a child of ours. Says whether it ended in time.
pub fn wait_until_gone(pid: Pid, limit: Duration) -> bool {
    let ended = wait_for_end(pid, limit);
    // Not a child, or reaped by somebody else: nothing to do.
    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    ended
}

/// Waits until the process has ended; does not reap it.
pub fn wait_for_end(pid: Pid, limit: Duration) -> bool {
    // SAFETY: pidfd_open(2) takes a pid and flags, and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let Ok(fd) = i32::try_from(fd) else { return true };
    if fd < 0 {
        return true;
    }
    // SAFETY: the descriptor is new and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(ready) => return ready > 0,
            Err(error) => panic!("poll: {error}"),
        }
    }
}

fn parent(pid: Pid) -> Option<Pid> {
    stat_field(pid, 1)?.parse().ok().map(Pid::from_raw)
}

fn is_zombie(pid: Pid) -> bool {
    stat_field(pid, 0).is_none_or(|state| state == "Z")
}

/// A field of /proc/PID/stat, counted from the one after the name (proc_pid_stat(5)); the name may hold spaces and
/// parentheses.
#[must_use]
pub fn stat_field(pid: Pid, index: usize) -> Option<String> {
    let stat = fs::read_to_string(file(pid, "stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(index).map(str::to_owned)
}
