//! The small busybox system that containers of tests have for a root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The commands that there are, each a link to busybox.
const APPLETS: [&str; 48] = [
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
    "httpd",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mknod",
    "mount",
    "nc",
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
    "wget",
];

/// Makes it in the folder `root`.
///
/// # Panics
/// Debian's busybox-static is not installed, or `root` cannot be written.
pub fn make(root: &Path) {
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "mnt"] {
        fs::create_dir_all(root.join(name)).expect("a folder of the rootfs");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("a link in the rootfs");
    }
}
