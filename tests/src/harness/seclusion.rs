//! Where a container engine runs without touching this machine's own: networks, sockets and state of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Folders of the machine in which engines keep what does not outlive a boot.
const STATE_FOLDERS: [&str; 2] = ["/run", "/dev/shm"];

/// Gives the calling thread, and every process it starts from now on, a network with nothing but a loopback interface,
/// empty folders for run-time state, and a new file system in memory at `storage`.
///
/// Other threads stay where they are, so what a test looks up on the machine afterwards it must look up from this one.
///
/// # Panics
/// This process is not root.
pub fn seclude(storage: &Path) {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("mounts are made private");
    for folder in STATE_FOLDERS {
        mount_tmpfs(Path::new(folder));
    }
    fs::set_permissions("/dev/shm", fs::Permissions::from_mode(0o1777)).expect("the new /dev/shm");
    fs::create_dir(storage).expect("the storage folder");
    mount_tmpfs(storage);
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.expect("iproute2 is installed").success());
}

/// The network interfaces of the calling thread's network, by name.
///
/// # Panics
/// The kernel does not tell.
#[must_use]
pub fn interfaces() -> Vec<String> {
    nix::net::if_::if_nameindex()
        .expect("netlink")
        .iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect()
}

/// Mounts a new file system in memory for the calling thread, and those that see its mounts.
///
/// # Panics
/// This process is not root, or there is no such folder.
pub fn mount_tmpfs(target: &Path) {
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .unwrap_or_else(|error| panic!("a tmpfs at {}: {error}", target.display()));
}
