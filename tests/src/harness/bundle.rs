//! OCI bundles to run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::artifacts;

/// The commands that a bundle has, each a link to busybox.
const APPLETS: [&str; 45] = [
    "awk",
    "cat",
    "chmod",
    "cut",
    "dd",
    "df",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mknod",
    "mount",
    "nproc",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "test",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "wc",
];

/// A bundle: a folder with `config.json` and `rootfs`, the latter a small busybox system.
pub struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    /// Makes the bundle in the new folder `folder`; `edit` changes the default `config.json`.
    pub(super) fn new(folder: PathBuf, edit: impl FnOnce(&mut Value)) -> Self {
        let bundle = Self { folder };
        let rootfs = bundle.rootfs();
        for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "mnt"] {
            fs::create_dir_all(rootfs.join(name)).expect("a folder of the rootfs");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("Debian's busybox-static is installed");
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).expect("a link in the rootfs");
        }
        let mut config = default_config();
        edit(&mut config);
        bundle.write_config(&serde_json::to_vec_pretty(&config).expect("JSON"));
        bundle
    }

    /// The folder itself, what `--bundle` names.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The container's root on the host.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// The path of `config.json`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Replaces `config.json` by these bytes.
    pub fn write_config(&self, bytes: &[u8]) {
        fs::write(self.config(), bytes).expect("config.json");
    }

    /// Puts a static program of this crate at `/bin/NAME`.
    #[must_use]
    pub fn with_program(self, name: &str) -> Self {
        fs::copy(artifacts::program(name), self.rootfs().join("bin").join(name))
            .unwrap_or_else(|error| panic!("the program {name}: {error}"));
        self
    }
}

/// What `bulkhead spec` writes, in its essence, with `true` for a program.
#[must_use]
pub fn default_config() -> Value {
    serde_json::from_str(include_str!("config.json")).expect("the default config.json is JSON")
}
