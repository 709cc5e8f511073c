//! All processes that there are, to measure them and to be rid of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use std::{fs, io, thread};

use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// kthreadd, whose children the kernel's threads are.
const PARENT_OF_KERNEL_THREADS: u64 = 2;

/// The ids of all processes.
pub fn all() -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Kills everybody but `others`, and returns when they have gone.
pub fn clear(others: &BTreeSet<u32>) {
    loop {
        let left = all_but(others);
        if left.is_empty() {
            return;
        }
        for pid in left {
            kill(pid);
            // It may be somebody else's child.
            let _ = waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Everybody but `others` and the kernel's threads.
pub fn all_but(others: &BTreeSet<u32>) -> Vec<u32> {
    all()
        .difference(others)
        .copied()
        .filter(|pid| !is_of_the_kernel(*pid))
        .collect()
}

/// Kills a process, which may have ended by itself.
pub fn kill(pid: u32) {
    let _ = signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}

/// The process that takes most of the processor for so long from now on.
///
/// # Errors
/// There is none.
pub fn busiest(span: Duration) -> io::Result<u32> {
    let ticks = || -> BTreeMap<u32, u64> {
        let pids = all_but(&BTreeSet::new()).into_iter();
        pids.filter_map(|pid| Some((pid, Stat::read(pid)?.ticks)))
            .collect()
    };
    let before = ticks();
    thread::sleep(span);
    let more = |(pid, ticks): (u32, u64)| Some((ticks.checked_sub(*before.get(&pid)?)?, pid));
    let (_, pid) = ticks()
        .into_iter()
        .filter_map(more)
        .max()
        .ok_or_else(|| io::Error::other("no process runs"))?;
    Ok(pid)
}

/// What /proc/PID/stat says (proc_pid_stat(5)).
struct Stat {
    parent: u64,
    /// How long it has run, in the kernel's mode and not.
    ticks: u64,
}

impl Stat {
    /// None if the process has gone.
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses, and may have such in it.
        let (_, rest) = stat.rsplit_once(')')?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| words.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: field(4)?,
            ticks: field(14)? + field(15)?,
        })
    }
}

fn is_of_the_kernel(pid: u32) -> bool {
    Stat::read(pid).is_none_or(|stat| stat.parent == PARENT_OF_KERNEL_THREADS)
}
