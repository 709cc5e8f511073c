//! How a microVM comes to its end: whoever sees it first says why, and the main thread hears of it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::report::{Outcome, Stage};

/// The end of a microVM. Clones share it.
#[derive(Clone)]
pub struct End(Arc<Inner>);

struct Inner {
    reached: AtomicBool,
    outcome: OnceLock<Outcome>,
    event: EventFd,
}

impl End {
    /// An end that has not come yet.
    pub fn new() -> io::Result<Self> {
        Ok(End(Arc::new(Inner {
            reached: AtomicBool::new(false),
            outcome: OnceLock::new(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })))
    }

    /// This is the end, and why. The first reason stays.
    pub fn reach(&self, outcome: Outcome) {
        if self.0.outcome.set(outcome).is_ok() {
            self.0.reached.store(true, Ordering::Release);
            // A write fails only when the counter is full, and this is the only one.
            let _ = self.0.event.write(1);
        }
    }

    /// This is the end: running the guest failed.
    pub fn fail(&self, message: String) {
        self.reach(Outcome::Failed {
            stage: Stage::Run,
            message,
        });
    }

    /// Whether it has come.
    pub fn is_reached(&self) -> bool {
        self.0.reached.load(Ordering::Acquire)
    }

    /// Why, once it has come.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.0.outcome.get()
    }

    /// Readable once it has come.
    pub fn event(&self) -> &EventFd {
        &self.0.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let end = End::new().unwrap();
        assert!(!end.is_reached() && end.outcome().is_none() && end.event().read().is_err());
        end.clone().reach(Outcome::TripleFault);
        end.reach(Outcome::PowerOff);
        assert!(end.is_reached());
        assert_eq!(end.outcome(), Some(&Outcome::TripleFault));
        assert_eq!(end.event().read().unwrap(), 1);
    }
}
