//! Processes of the host: telling them apart for good, and making one inside a cgroup.

use std::{
    fs, io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use serde::{Deserialize, Serialize};

/// linux/sched.h; the binding's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process for good: its pid may be used again, its pid and start time together are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since the host's boot.
    pub start_time: u64,
}

impl ProcessIdentity {
    /// Of the calling process.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn current() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let start_time =
            start_time(&stat).ok_or_else(|| io::Error::other("/proc/self/stat has no start time"))?;
        Ok(Self {
            pid: rustix::process::getpid().as_raw_pid(),
            start_time,
        })
    }

    /// Whether that process still runs. A process that has ended and waits to be reaped does not.
    pub fn is_alive(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        stat.is_ok_and(|stat| start_time(&stat) == Some(self.start_time) && !is_zombie(&stat))
    }
}

impl ProcessIdentity {
    /// A descriptor of that process; none if it has ended. Whatever is done by way of the descriptor is done to no other.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidData)?;
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            // What was opened may be a later process of that pid, unless the one that is meant still lives.
            Ok(pidfd) => Ok(self.is_alive().then_some(pidfd)),
            // The latter where another process's session still has its number.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Kills that process. One that has ended is no error.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn kill(self) -> io::Result<()> {
        let Some(pidfd) = self.open()? else { return Ok(()) };
        match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for that process's end, at most so long.
    ///
    /// # Errors
    /// `TimedOut`, or no file descriptors left.
    pub fn wait_for_end(self, limit: Duration) -> io::Result<()> {
        let Some(pidfd) = self.open()? else { return Ok(()) };
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| poll(&mut polled, Some(&limit)))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// The fields of `/proc/<pid>/stat` after the program's name, which may have spaces and parentheses in it.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_ascii_whitespace()
}

fn is_zombie(stat: &str) -> bool {
    matches!(fields(stat).next(), Some("Z" | "X"))
}

fn start_time(stat: &str) -> Option<u64> {
    // proc_pid_stat(5): the program's name is field 2, the start time field 22.
    fields(stat).nth(19)?.parse().ok()
}

/// What [`fork`] returns, once in each process.
pub enum Fork {
    /// In the process that called it.
    Parent(Child),
    /// In the new one.
    Child,
}

/// A child process, by a descriptor that means no other process, ever.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: i32,
    pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with an exit status.
    Exited(i32),
    /// By a signal.
    Killed(i32),
}

/// Copies the calling process into a new one that lives in `cgroup`, an open folder of cgroup v2. Moving a process into a
/// cgroup later would wait for a grace period of the kernel.
///
/// The calling process has one thread. The file descriptors and the signal mask are copied.
///
/// # Errors
/// `clone3`'s.
pub fn fork(cgroup: BorrowedFd<'_>) -> io::Result<Fork> {
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
    let args = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.as_raw_fd() as u64,
    };
    // SAFETY: `args` is a whole `clone_args` and outlives the call; `pidfd` is where the kernel may write. Without
    // CLONE_VM the child has its own copy of all memory, and as there is one thread no lock is held by another one.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Fork::Child),
        1.. => {
            // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).unwrap_or(i32::MAX);
            Ok(Fork::Parent(Child { pid, pidfd }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

impl Child {
    /// The descriptor, readable when the child has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.pidfd)
    }

    /// Sends a signal. A child that has ended gets none, which is no error.
    ///
    /// # Errors
    /// A signal that does not exist.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It has been waited for already.
    pub fn wait(&self) -> io::Result<Ended> {
        let wait = || rustix::process::waitid(WaitId::PidFd(self.pidfd()), WaitIdOptions::EXITED);
        let status = rustix::io::retry_on_intr(wait)?.ok_or(io::ErrorKind::InvalidData)?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ok(Ended::Exited(code)),
            (None, Some(signal)) => Ok(Ended::Killed(signal)),
            (None, None) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_an_earlier_one_of_its_pid_is_not() {
        let me = ProcessIdentity::current().expect("/proc is mounted");
        assert!(me.is_alive());
        assert!(
            !ProcessIdentity {
                start_time: me.start_time - 1,
                ..me
            }
            .is_alive()
        );
        assert!(!ProcessIdentity { pid: i32::MAX, ..me }.is_alive());
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_hides_no_field() {
        let stat = "7 (a) Z (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(start_time(stat), Some(4242));
        assert!(!is_zombie(stat));
        assert!(is_zombie("7 (x) Z 1"));
        assert_eq!(start_time(""), None);
    }
}
