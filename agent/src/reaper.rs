//! Collects every process that ends in the guest: pid 1 is the parent of all that have lost theirs.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, watch},
};

use crate::{error::AgentError, syscalls};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, 0 when a signal ended it.
    pub code: u32,
    /// The signal that ended it, or 0.
    pub signal: u32,
    /// Nanoseconds since 1970-01-01 UTC.
    pub at_nanos: i64,
}

impl Exit {
    /// At this moment: by the signal, or by itself and well if that is 0.
    pub fn by(signal: u32) -> Self {
        Self::now(0, signal)
    }

    fn of(status: WaitStatus) -> Self {
        let number = |value: Option<i32>| value.map_or(0, i32::cast_unsigned);
        Self::now(number(status.exit_status()), number(status.terminating_signal()))
    }

    fn now(code: u32, signal: u32) -> Self {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            code,
            signal,
            at_nanos: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

/// Tells how a process ended, once it has.
pub type ExitReceiver = watch::Receiver<Option<Exit>>;

/// Waits for the end that `exit` tells of.
///
/// # Errors
/// Nobody knows of it any more.
pub async fn wait_for_exit(mut exit: ExitReceiver) -> Result<Exit, AgentError> {
    let ended = exit.wait_for(Option::is_some).await;
    ended
        .ok()
        .and_then(|exit| *exit)
        .ok_or_else(|| AgentError::State("the process is not known any more".to_owned()))
}

/// Who waits for which process.
#[derive(Debug, Default)]
pub struct Reaper {
    awaited: Mutex<HashMap<Pid, watch::Sender<Option<Exit>>>>,
    alone: Notify,
}

impl Reaper {
    /// Starts to collect, in the background.
    ///
    /// # Errors
    /// What setting up the notification gives.
    pub fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        // SAFETY: the descriptor stays open, and the same, as long as the object that owns it.
        let signals =
            unsafe { AsyncFd::register_with_interest(syscalls::child_signals()?, Interest::READABLE) }
                .map_err(io::Error::from)?;
        tokio::spawn(Arc::clone(&reaper).run(signals));
        Ok(reaper)
    }

    async fn run(self: Arc<Self>, signals: AsyncFd<OwnedFd>) {
        loop {
            self.collect();
            let read = signals.async_io(Interest::READABLE, |fd| {
                // One record; SIGCHLD does not queue, so the next read would block.
                Ok(rustix::io::read(fd, &mut [0_u8; 128])?)
            });
            if let Err(error) = read.await {
                eprintln!("bulkhead-agent: cannot learn of ended processes: {error}");
                return;
            }
        }
    }

    fn collect(&self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(awaited) = self.lock().remove(&pid) {
                        // Nobody may be left who wants to know.
                        let _ = awaited.send(Some(Exit::of(status)));
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.alone.notify_waiters();
                    return;
                }
            }
        }
    }

    /// Has the end of a process reported. To be called before anything else is awaited after its start.
    pub fn adopt(&self, pid: Pid) -> ExitReceiver {
        let (sender, receiver) = watch::channel(None);
        self.lock().insert(pid, sender);
        receiver
    }

    /// Waits until no process is left but this one.
    pub async fn until_alone(&self) {
        let alone = self.alone.notified();
        tokio::pin!(alone);
        alone.as_mut().enable();
        self.collect();
        alone.await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Pid, watch::Sender<Option<Exit>>>> {
        self.awaited.lock().expect("nothing panics while it is locked")
    }
}
