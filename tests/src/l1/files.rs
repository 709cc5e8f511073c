//! L1's file tree: the host's root file system under an overlay, with L1's own kernel file systems on top.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot};

use crate::testbed::channel::Setup;

/// virtio-fs tag of the host's root.
pub const ROOT_TAG: &str = "root";
/// virtio-fs tag of the work tree.
pub const WORK_TREE_TAG: &str = "work-tree";

/// The host's plain root inside L1, for what an overlay cannot do.
const LOWER: &str = "/.lower";

/// How long a share may take to appear after it was plugged in.
const PLUG_LIMIT: Duration = Duration::from_secs(30);

type Mount = (&'static str, &'static str, &'static str);

/// Mounted over the host's tree: type, target, data. State of other container engines is kept on tmpfs since an
/// overlay cannot be the upper of another one.
const OWN_FILE_SYSTEMS: &[Mount] = &[
    ("sysfs", "/sys", ""),
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("mqueue", "/dev/mqueue", ""),
    ("tmpfs", "/run", "mode=755"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("tmpfs", "/var/lib/containerd", ""),
    ("tmpfs", "/var/lib/containers", ""),
    ("tmpfs", "/var/lib/docker", ""),
    ("tmpfs", "/var/lib/cni", ""),
];

/// Mounts what pid 1 itself needs before the host's files are there.
///
/// # Errors
/// The mount that failed, by its target.
pub fn mount_early() -> io::Result<()> {
    mount_new("devtmpfs", "/dev", "")?;
    mount_new("proc", "/proc", "")?;
    mount_new("sysfs", "/sys", "")
}

/// Makes the host's tree L1's root and mounts the work tree into it.
///
/// # Errors
/// The step that failed, by its target.
pub fn enter_host_tree(setup: &Setup, release: &str) -> io::Result<()> {
    wait_for_share(ROOT_TAG, "/host", MsFlags::MS_RDONLY)?;
    mount_new("tmpfs", "/overlay", "size=75%,mode=755")?;
    for folder in ["/overlay/upper", "/overlay/work", "/overlay/root"] {
        fs::create_dir(folder)?;
    }
    mount_new(
        "overlay",
        "/overlay/root",
        "lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work",
    )?;
    umount2("/sys", MntFlags::MNT_DETACH)?;
    for (from, to) in [("/dev", "/dev"), ("/proc", "/proc"), ("/host", LOWER)] {
        move_mount(from, &format!("/overlay/root{to}"))?;
    }
    chdir("/overlay/root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;

    mount_own()?;
    bind(
        &format!("{LOWER}{}", setup.modules),
        &format!("/lib/modules/{release}"),
    )?;
    wait_for_share(WORK_TREE_TAG, &setup.work_tree, MsFlags::empty())
}

/// Mounts L1's own file systems over the tree it has entered.
///
/// # Errors
/// The mount that failed, by its target.
pub fn mount_own() -> io::Result<()> {
    for (kind, target, data) in OWN_FILE_SYSTEMS {
        mount_new(kind, target, data)?;
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("fd/0", "/dev/stdin"),
        ("fd/1", "/dev/stdout"),
        ("fd/2", "/dev/stderr"),
    ] {
        // devtmpfs may have them already.
        let _ = symlink(target, link);
    }
    Ok(())
}

fn mount_new(kind: &str, target: &str, data: &str) -> io::Result<()> {
    mount_at(Some(kind), target, Some(kind), MsFlags::empty(), Some(data))
}

fn move_mount(from: &str, to: &str) -> io::Result<()> {
    mount_at(Some(from), to, None, MsFlags::MS_MOVE, None)
}

fn bind(from: &str, to: &str) -> io::Result<()> {
    mount_at(Some(from), to, None, MsFlags::MS_BIND, None)
}

fn mount_at(
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> io::Result<()> {
    fs::create_dir_all(target)
        .and_then(|()| mount(source, Path::new(target), kind, flags, data).map_err(Into::into))
        .map_err(|error| io::Error::other(format!("mount {target}: {error}")))
}

/// Mounts a share that is being plugged in: the kernel finds the device a few milliseconds later.
fn wait_for_share(tag: &str, target: &str, flags: MsFlags) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let give_up = Instant::now() + PLUG_LIMIT;
    loop {
        match mount(Some(tag), target, Some("virtiofs"), flags, None::<&str>) {
            Ok(()) => return Ok(()),
            Err(Errno::EINVAL | Errno::ENODEV | Errno::ENOENT) if Instant::now() < give_up => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(errno) => {
                return Err(io::Error::other(format!(
                    "mount share {tag} on {target}: {errno}"
                )));
            }
        }
    }
}
