//! What pid 1 does before it can answer. Boot is a hot path: only what containers or the agent itself need is done,
//! with the fewest system calls. File systems that only containers use are mounted in the containers.

use std::fs;

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree},
    process::{DumpableBehavior, Resource, Rlimit, chroot, fchdir, set_dumpable_behavior, setrlimit},
};

use crate::{
    container::cgroup,
    failure::{Failure, Step},
    syscalls::{self, MountAttributes, mount_setattr},
};

/// How many files a process of the guest may open at most; the agent itself, with its streams, may at once.
const MAX_FILES: u64 = 1 << 20;

/// The kernel parameters that distributions set at boot for every program's good.
const PARAMETERS: &[(&str, &str)] = &[
    ("/proc/sys/fs/protected_hardlinks", "1"),
    ("/proc/sys/fs/protected_symlinks", "1"),
    ("/proc/sys/fs/protected_fifos", "1"),
    ("/proc/sys/fs/protected_regular", "2"),
];

/// Makes the guest ready for containers.
///
/// # Errors
/// Names the step.
pub fn prepare() -> Result<(), Failure> {
    // Processes that enter a container, still with the agent's memory, are not to be looked into from there.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step(|| "protect the agent's memory")?;
    leave_rootfs().step(|| "put a root on top of the initramfs")?;
    for (fstype, target, flags, data) in [
        ("proc", "/proc", MountFlags::empty(), c""),
        ("sysfs", "/sys", MountFlags::empty(), c""),
        ("devtmpfs", "/dev", MountFlags::empty(), c"mode=755"),
        // The root may be an image that cannot be written to.
        ("tmpfs", "/run", MountFlags::NODEV, c"mode=755"),
    ] {
        mount_new(fstype, target, MountFlags::NOEXEC | flags, data)?;
    }
    mount_new(
        "cgroup2",
        cgroup::MOUNT_POINT,
        MountFlags::NOEXEC,
        c"nsdelegate,memory_recursiveprot",
    )?;
    cgroup::distribute_controllers().step(|| "distribute the cgroup controllers")?;
    syscalls::loopback_up().step(|| "bring up the loopback interface")?;
    for (file, value) in PARAMETERS {
        fs::write(file, value).step(|| format!("write {file}"))?;
    }
    let files = Rlimit {
        current: Some(MAX_FILES),
        maximum: Some(MAX_FILES),
    };
    setrlimit(Resource::Nofile, files).step(|| "raise RLIMIT_NOFILE")
}

/// Puts a clone of the initramfs's root on top of it and moves there. pivot_root(2) refuses to leave the kernel's first
/// mount, and this makes it possible for containers at the cost of five system calls, without copying. The first mount
/// itself, from which the agent's program comes, becomes read-only, so that no process can overwrite the program by
/// `/proc/<pid>/exe`.
fn leave_rootfs() -> Result<(), Errno> {
    let root = open_tree(
        CWD,
        "/",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let first = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let read_only = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttributes::default()
    };
    mount_setattr(first, read_only, false)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&root)?;
    chroot(".")
}

/// Mounts, on a folder that is made if the initramfs has it not.
fn mount_new(fstype: &str, target: &str, flags: MountFlags, data: &std::ffi::CStr) -> Result<(), Failure> {
    let named = || format!("mount {target}");
    let attempt = || mount(fstype, target, fstype, flags | MountFlags::NOSUID, data);
    match attempt() {
        Err(Errno::NOENT) => {
            fs::create_dir_all(target).step(named)?;
            attempt().step(named)
        }
        result => result.step(named),
    }
}
