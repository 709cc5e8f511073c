//! Output, collected while it comes.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::LIMIT;

/// What a reader has given so far. Clones share it.
#[derive(Clone)]
pub struct Collected {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collected {
    /// Reads `from` to its end, on a thread of its own.
    pub fn from_reader(mut from: impl Read + Send + 'static) -> Self {
        let collected = Self {
            shared: Arc::default(),
        };
        let shared = Arc::clone(&collected.shared);
        thread::spawn(move || {
            let (state, changed) = &*shared;
            let mut buffer = vec![0; 1 << 16];
            loop {
                // A terminal's master says EIO, not end of file, when the last slave is closed.
                let length = from.read(&mut buffer).unwrap_or(0);
                let mut state = lock(state);
                state
                    .bytes
                    .extend_from_slice(buffer.get(..length).unwrap_or_default());
                state.ended = length == 0;
                changed.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        collected
    }

    /// Waits until `enough` says so or the end is reached, and gives everything so far; `None` when it takes longer
    /// than the [`LIMIT`].
    pub fn wait(&self, enough: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + LIMIT;
        let (state, changed) = &*self.shared;
        let mut state = lock(state);
        while !state.ended && !enough(&state.bytes) {
            let left = deadline.checked_duration_since(Instant::now())?;
            state = changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Some(state.bytes.clone())
    }

    /// Waits for the end and gives everything.
    pub fn wait_for_end(&self) -> Option<Vec<u8>> {
        self.wait(|_| false)
    }

    /// What came so far, for a message.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&lock(&self.shared.0).bytes).into_owned()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
