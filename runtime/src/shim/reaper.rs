//! The ends of the shim's children: those that it starts, and those that become its own when what started them has ended.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::process::{WaitOptions, WaitStatus};
use tokio::{io::Interest, sync::oneshot};

use super::lock;
use crate::{readiness::watch, sandbox::Exit};

/// The size of a `signalfd_siginfo` (signalfd(2)).
const SIGINFO: usize = 128;

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How.
    pub exit: Exit,
    /// When.
    pub at: SystemTime,
}

/// Waits for every child of the calling process.
#[derive(Debug, Default)]
pub struct Reaper(Mutex<Children>);

#[derive(Debug, Default)]
struct Children {
    claimed: HashMap<i32, oneshot::Sender<End>>,
    /// Of children that ended while some were expected whose pids nobody knew yet.
    unclaimed: HashMap<i32, End>,
    expected: usize,
}

impl Reaper {
    /// Makes the calling process the one to which orphans below it are left, and holds back the signal that says that a child
    /// has ended. To be called before there is another thread.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn prepare() -> io::Result<OwnedFd> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let child = SigSet::from(Signal::SIGCHLD);
        child.thread_block()?;
        Ok(SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?.into())
    }

    /// Waits for children from now on; `signals` is what [`Self::prepare`] has made. Called inside a tokio runtime.
    ///
    /// # Errors
    /// epoll cannot watch the signals.
    pub fn start(signals: OwnedFd) -> io::Result<Arc<Self>> {
        let signals = watch(signals, Interest::READABLE)?;
        let reaper = Arc::new(Self::default());
        let this = Arc::clone(&reaper);
        tokio::spawn(async move {
            let read = |signals: &OwnedFd| Ok(rustix::io::read(signals, &mut [0; SIGINFO])?);
            while signals.async_io(Interest::READABLE, read).await.is_ok() {
                this.reap();
            }
        });
        Ok(reaper)
    }

    /// Takes the ends of all children that have ended.
    fn reap(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(exit) = exit_of(status) {
                let at = SystemTime::now();
                self.tell(pid.as_raw_pid(), End { exit, at });
            }
        }
    }

    fn tell(&self, pid: i32, end: End) {
        let mut children = lock(&self.0);
        if let Some(claim) = children.claimed.remove(&pid) {
            // Who has lost interest misses nothing.
            let _ = claim.send(end);
        } else if children.expected > 0 {
            children.unclaimed.insert(pid, end);
        }
    }

    /// Keeps the ends of all children from now on, until the answer is dropped, so that one can be claimed whose pid is not
    /// known yet.
    pub fn expect(self: &Arc<Self>) -> Expecting {
        lock(&self.0).expected += 1;
        Expecting(Arc::clone(self))
    }
}

/// Children are on their way.
#[derive(Debug)]
pub struct Expecting(Arc<Reaper>);

impl Expecting {
    /// The end of a child that was not there before this.
    pub fn end_of(&self, pid: i32) -> oneshot::Receiver<End> {
        let (sender, receiver) = oneshot::channel();
        let mut children = lock(&self.0.0);
        match children.unclaimed.remove(&pid) {
            Some(end) => drop(sender.send(end)),
            None => drop(children.claimed.insert(pid, sender)),
        }
        receiver
    }
}

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut children = lock(&self.0.0);
        children.expected = children.expected.saturating_sub(1);
        if children.expected == 0 {
            children.unclaimed.clear();
        }
    }
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Exit::Code(code)),
        (None, Some(signal)) => Some(Exit::Signal(signal)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: End = End {
        exit: Exit::Code(3),
        at: SystemTime::UNIX_EPOCH,
    };

    #[tokio::test(flavor = "current_thread")]
    async fn an_end_is_told_before_and_after_it_is_claimed() {
        let reaper = Arc::new(Reaper::default());
        let expecting = reaper.expect();
        let before = expecting.end_of(1);
        reaper.tell(1, END);
        reaper.tell(2, END);
        let after = expecting.end_of(2);
        assert_eq!(before.await, Ok(END));
        assert_eq!(after.await, Ok(END));
    }

    #[test]
    fn nothing_is_kept_of_children_that_nobody_expects() {
        let reaper = Arc::new(Reaper::default());
        reaper.tell(1, END);
        drop(reaper.expect());
        let expecting = reaper.expect();
        reaper.tell(2, END);
        assert_eq!(lock(&reaper.0).unclaimed.len(), 1);
        drop(expecting);
        assert!(lock(&reaper.0).unclaimed.is_empty());
    }
}
