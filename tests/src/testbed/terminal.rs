//! The caller's terminal, when `bulkhead-testbed shell` hands it to a command in L1.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::channel::WindowSize;

/// Raw mode until dropped.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes the terminal on standard input raw; `None` if there is none.
    #[must_use]
    pub fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done for a terminal that went away.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// The size of the terminal on standard input; `None` if there is none.
#[must_use]
pub fn size() -> Option<WindowSize> {
    nix::ioctl_read_bad!(get_size, libc::TIOCGWINSZ, libc::winsize);
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: standard input is open and `size` outlives the call.
    unsafe { get_size(io::stdin().as_fd().as_raw_fd(), &raw mut size) }.ok()?;
    Some(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Calls `tell` with every new size. Call it before any thread starts that should not get the signal.
pub(super) fn on_resize(tell: impl Fn(WindowSize) + Send + 'static) {
    let mut resized = SigSet::empty();
    resized.add(Signal::SIGWINCH);
    if resized.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        while resized.wait().is_ok() {
            if let Some(size) = size() {
                tell(size);
            }
        }
    });
}
