//! The Unix socket over which a detached container's terminal is handed over.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::pty::Winsize;

use super::collect::Collected;
use super::descriptor::receive_descriptor;
use crate::testbed::channel::WindowSize;

/// What `--console-socket` names.
pub struct ConsoleSocket {
    /// Its path.
    pub path: PathBuf,
    listener: UnixListener,
}

/// The master's side of a container's terminal.
pub struct ReceivedTerminal {
    master: File,
    output: Collected,
}

impl ConsoleSocket {
    /// Listens in `folder`.
    ///
    /// # Panics
    /// There is one already.
    #[must_use]
    pub fn listen(folder: &Path) -> Self {
        let path = folder.join("console.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        Self { path, listener }
    }

    /// Takes the terminal that has been sent.
    ///
    /// # Panics
    /// Something else has been sent.
    #[must_use]
    pub fn receive(&self) -> ReceivedTerminal {
        let (_, master) = receive_descriptor(&self.listener);
        let master = File::from(master);
        let output = Collected::from_reader(master.try_clone().expect("a descriptor"));
        ReceivedTerminal { master, output }
    }
}

impl ReceivedTerminal {
    /// Tells the terminal its size.
    pub fn resize(&self, size: WindowSize) {
        nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, Winsize);
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: `master` is a terminal and the size outlives the call.
        unsafe { set_size(self.master.as_raw_fd(), &size) }.expect("a terminal");
    }

    /// Waits until `text` has come out of it.
    ///
    /// # Panics
    /// It ends without, or it takes longer than [`super::LIMIT`].
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let contains = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let found = self.output.wait(contains).is_some_and(|bytes| contains(&bytes));
        assert!(found, "{text:?} never came: {}", self.output.so_far());
    }
}
