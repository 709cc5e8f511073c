//! What a test left on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::processes;

const CGROUPS: &str = "/sys/fs/cgroup";
/// The folder of all sandboxes' cgroups; made by the first and shared by all, it may stay.
const PARENT_CGROUP: &str = "/sys/fs/cgroup/bulkhead";

/// The state of what is watched.
pub struct Snapshot {
    processes: BTreeSet<Pid>,
    mounts: Vec<String>,
    cgroups: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
    shared_memory: BTreeSet<PathBuf>,
}

impl Snapshot {
    /// The state now.
    pub fn take() -> Self {
        Self {
            processes: ours(),
            mounts: mounts_of_self(),
            cgroups: cgroups(),
            links: entries("/sys/class/net"),
            shared_memory: entries("/dev/shm"),
        }
    }

    /// What is there now and was not then, one line each. `folder` is the test's own, `state` the `--root` in it.
    pub fn leftovers(&self, folder: &Path, state: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for pid in self.new_processes() {
            let name = processes::name(pid).unwrap_or_default();
            found.push(format!("process {pid} ({name})"));
        }
        found.extend(self.new_mounts().into_iter().map(|line| format!("mount {line}")));
        found.extend(mounts_elsewhere(folder));
        let mut new_paths = |what, before: &BTreeSet<PathBuf>, now: BTreeSet<PathBuf>| {
            found.extend(
                now.difference(before)
                    .map(|path| format!("{what} {}", path.display())),
            );
        };
        new_paths("cgroup", &self.cgroups, cgroups());
        new_paths("network interface", &self.links, entries("/sys/class/net"));
        new_paths("shared memory", &self.shared_memory, entries("/dev/shm"));
        new_paths("file", &BTreeSet::new(), entries(state));
        found
    }

    /// Waits until no process is left that was not there then, at most so long.
    pub fn wait_for_processes(&self, limit: Duration) {
        for pid in self.new_processes() {
            if !processes::wait_until_gone(pid, limit) {
                return;
            }
        }
    }

    /// Removes what would disturb the next test: processes, mounts, cgroups.
    pub fn restore(&self) {
        for pid in self.new_processes() {
            // It may have ended meanwhile: that is what is wanted.
            let _ = kill(pid, Signal::SIGKILL);
            processes::wait_until_gone(pid, Duration::from_secs(10));
        }
        for mount in self.new_mounts().iter().rev() {
            if let Some(target) = mount.split(' ').nth(4) {
                let _ = umount2(Path::new(target), MntFlags::MNT_DETACH);
            }
        }
        // Parents sort before their children.
        let new: Vec<_> = cgroups().difference(&self.cgroups).cloned().collect();
        for cgroup in new.iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
    }

    fn new_processes(&self) -> Vec<Pid> {
        ours().difference(&self.processes).copied().collect()
    }

    fn new_mounts(&self) -> Vec<String> {
        mounts_of_self()
            .into_iter()
            .filter(|mount| !self.mounts.contains(mount))
            .collect()
    }
}

/// Every process that is ours by descent (orphans included, as a test is their subreaper) or by name.
fn ours() -> BTreeSet<Pid> {
    processes::all()
        .into_iter()
        .filter(|pid| {
            processes::name(*pid)
                .is_some_and(|name| name.starts_with("bulkhead") && !name.starts_with("bulkhead-l1"))
        })
        .chain(processes::descendants(Pid::this()))
        .collect()
}

fn mounts_of_self() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts.lines().map(str::to_owned).collect()
}

/// Mounts in any process's mount namespace that have to do with the test's folder. The test's own namespace is
/// looked at more closely, by the caller.
fn mounts_elsewhere(folder: &Path) -> Vec<String> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let mut seen = BTreeSet::new();
    processes::all()
        .into_iter()
        .filter(|pid| {
            let namespace = fs::read_link(processes::file(*pid, "ns/mnt")).ok();
            namespace != own && namespace.is_some_and(|namespace| seen.insert(namespace))
        })
        .flat_map(|pid| {
            let mounts = fs::read_to_string(processes::file(pid, "mountinfo")).unwrap_or_default();
            let ours: Vec<_> = mounts
                .lines()
                .filter(|line| line.contains(&*name))
                .map(|line| format!("mount in the namespace of process {pid}: {line}"))
                .collect();
            ours
        })
        .collect()
}

fn cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from(CGROUPS)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
                found.insert(entry.path());
            }
        }
    }
    found.remove(Path::new(PARENT_CGROUP));
    found
}

/// What is in a folder; nothing if it does not exist.
pub(super) fn entries(folder: impl AsRef<Path>) -> BTreeSet<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_left_is_named() {
        let before = Snapshot::take();
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("state.json"), "{}").unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let left = before.leftovers(Path::new("/no/such/folder"), state.path());
        child.kill().unwrap();
        child.wait().unwrap();
        for expected in [
            format!("process {}", child.id()),
            format!("file {}", state.path().display()),
        ] {
            assert!(
                left.iter().any(|line| line.starts_with(&expected)),
                "{expected}: {left:?}"
            );
        }
    }
}
