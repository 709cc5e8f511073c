//! Where the virtual processors wait while the guest is paused.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::end::End;

/// A gate that every processor passes before it runs the guest.
pub struct Gate {
    /// Says without the lock whether there is something to look at under it.
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    all_wait: EventFd,
}

struct State {
    closed: bool,
    waiting: usize,
    processors: usize,
}

impl Gate {
    /// An open gate that no processor passes yet.
    pub fn new() -> io::Result<Self> {
        Ok(Gate {
            closed: AtomicBool::new(false),
            state: Mutex::new(State {
                closed: false,
                waiting: 0,
                processors: 0,
            }),
            changed: Condvar::new(),
            all_wait: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// One more processor passes it from now on. Must be said before its thread comes.
    pub fn expect_another(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.processors += 1;
    }

    /// One processor that was expected does not come.
    pub fn expect_one_less(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.processors -= 1;
    }

    /// A processor's way through: returns whether it may run the guest, after waiting while the gate is closed. At the
    /// guest's end it may not.
    pub fn pass(&self, end: &End) -> bool {
        if self.closed.load(Ordering::Acquire) {
            self.wait();
        }
        !end.is_reached()
    }

    fn wait(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.closed {
            return;
        }
        state.waiting += 1;
        if state.waiting == state.processors {
            // A write fails only when the counter is full; it is read at every pause.
            let _ = self.all_wait.write(1);
        }
        while state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    /// Closes it. Processors in the guest must be kicked to notice.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        self.closed.store(true, Ordering::Release);
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether it is closed and every processor waits. If not yet, [`Gate::all_wait`] becomes readable when they do.
    pub fn is_everyone_waiting(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed && state.waiting == state.processors
    }

    /// Opens it.
    pub fn open(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = false;
        self.closed.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// Readable when the last processor has come to wait.
    pub fn all_wait(&self) -> &EventFd {
        &self.all_wait
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;
    use crate::report::Outcome;

    #[test]
    fn processors_wait_while_it_is_closed() {
        const PROCESSORS: usize = 3;
        let gate = Arc::new(Gate::new().unwrap());
        for _ in 0..PROCESSORS {
            gate.expect_another();
        }
        let end = End::new().unwrap();
        let passes = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..PROCESSORS)
            .map(|_| {
                let (gate, end, passes) = (Arc::clone(&gate), end.clone(), Arc::clone(&passes));
                thread::spawn(move || {
                    while gate.pass(&end) {
                        passes.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            gate.close();
            while !gate.is_everyone_waiting() {
                let mut poll = libc::pollfd {
                    fd: std::os::fd::AsRawFd::as_raw_fd(gate.all_wait()),
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one valid pollfd.
                assert_eq!(unsafe { libc::poll(&raw mut poll, 1, -1) }, 1);
                let _ = gate.all_wait().read();
            }
            let before = passes.load(Ordering::SeqCst);
            thread::yield_now();
            assert_eq!(passes.load(Ordering::SeqCst), before);
            gate.close();
            assert!(gate.is_everyone_waiting(), "closing twice is no error");
            gate.open();
            while passes.load(Ordering::SeqCst) == before {
                thread::yield_now();
            }
        }
        end.reach(Outcome::Stopped);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
