//! Block devices of the host's.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{major, minor};

use super::Host;

/// A loop device over a file, which is let go of when this is dropped.
pub struct Loop(PathBuf);

impl Loop {
    /// Over a file that is there.
    ///
    /// # Panics
    /// There is no loop device for it.
    #[must_use]
    pub fn over(file: &Path) -> Self {
        let output = losetup("--find").arg("--show").arg(file).output();
        let output = output.expect("util-linux is installed");
        assert!(output.status.success(), "losetup: {output:?}");
        let node = String::from_utf8(output.stdout).expect("a path");
        Self(node.trim_end().into())
    }

    /// Over a new file of 1 MiB of zeros in the host's folder.
    ///
    /// # Panics
    /// As [`Loop::over`].
    #[must_use]
    pub fn new(host: &Host, name: &str) -> Self {
        let path = host.folder().join(name);
        let file = File::create(&path).expect("a file of the test's own");
        file.set_len(1 << 20).expect("a file without content");
        Self::over(&path)
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.0
    }

    /// Its number, major and minor.
    ///
    /// # Panics
    /// It has no node.
    #[must_use]
    pub fn number(&self) -> (u64, u64) {
        let number = fs::metadata(&self.0).expect("a node").rdev();
        (major(number), minor(number))
    }

    /// Lets go of the file, which the kernel does when nobody has the device open any more.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn detach(&self) {
        let status = losetup("--detach").arg(&self.0).status();
        assert!(status.expect("util-linux is installed").success());
    }

    /// Whether it has its file.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let name = self.0.file_name().expect("a node has a name");
        let device = Path::new("/sys/block").join(name);
        device.join("loop/backing_file").exists()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.is_attached() {
            // Nothing more to be done about it.
            let _ = losetup("--detach").arg(&self.0).status();
        }
    }
}

fn losetup(action: &str) -> Command {
    let mut losetup = Command::new("/usr/sbin/losetup");
    losetup.arg(action);
    losetup
}
