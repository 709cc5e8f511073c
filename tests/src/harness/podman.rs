//! podman and buildah with `bulkhead` as their runtime.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::bulkhead::Invocation;
use super::leaks::entries;
use super::{Host, engine_runtime, image, seclusion};

/// The image that every [`Podman`] has.
pub const IMAGE: &str = "localhost/busybox";
/// Where `bulkhead` keeps state when no `--root` says otherwise: podman's call does not.
const STATE: &str = "/run/bulkhead";
/// Below it podman makes the cgroups of its containers.
const CGROUPS: &str = "/sys/fs/cgroup/libpod_parent";
/// The cgroup of the processes that hold containers' stdio. Podman leaves it there.
const CONMON_CGROUP: &str = "/sys/fs/cgroup/libpod_parent/conmon";
/// The cgroup by which podman finds out what the kernel can do. It is left there too.
const PROBE_CGROUP: &str = "/sys/fs/cgroup/podman_probe";
/// Podman's locks, which it leaves there.
const LOCKS: &str = "/dev/shm/libpod_lock";

/// A podman of the test's own, secluded from the machine's. Dropping it removes its containers and fails the test if
/// anything is left of them.
pub struct Podman {
    host: Host,
}

impl Podman {
    /// Makes one, with [`IMAGE`] in its store.
    ///
    /// # Panics
    /// podman is not installed or does not work.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it waits and takes a lock")]
    pub fn new() -> Self {
        let host = Host::new();
        let storage = host.folder().join("storage");
        seclusion::seclude(&storage);
        host.file(
            "storage.conf",
            format!(
                "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"/run/containers/storage\"\n",
                storage.display()
            ),
        );
        host.file(
            "containers.conf",
            format!(
                "[containers]
log_driver = \"k8s-file\"
[engine]
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
runtime = \"bulkhead\"
[engine.runtimes]
bulkhead = [\"{}\"]
[network]
network_backend = \"netavark\"
network_config_dir = \"{}\"
",
                engine_runtime(&host).display(),
                storage.join("networks").display()
            ),
        );
        let podman = Self { host };
        let archive = image::archive(podman.host.folder());
        podman
            .podman(["import", "--quiet"])
            .arg(archive)
            .arg(IMAGE)
            .output()
            .with_code(0);
        podman
    }

    /// `podman` with these arguments.
    #[must_use]
    pub fn podman<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        self.program("podman", args)
    }

    /// `buildah` with these arguments, on the same images.
    #[must_use]
    pub fn buildah<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        self.program("buildah", args)
    }

    /// The program that podman runs containers with.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        engine_runtime(&self.host)
    }

    /// The host it is on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn program<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Invocation {
        let mut command = Command::new(name);
        command
            .env("CONTAINERS_CONF", self.host.folder().join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.host.folder().join("storage.conf"))
            .args(args);
        Invocation::new(command)
    }

    /// What is still there although no container is.
    fn leftovers(&self) -> Vec<String> {
        let state = entries(STATE);
        let cgroups = entries(CGROUPS)
            .into_iter()
            .filter(|path| path.is_dir() && path != Path::new(CONMON_CGROUP));
        state
            .into_iter()
            .chain(cgroups)
            .map(|path| path.display().to_string())
            .chain(
                seclusion::interfaces()
                    .into_iter()
                    .filter(|name| name != "lo")
                    .map(|name| format!("network interface {name}")),
            )
            .collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if thread::panicking() {
            // Whatever this leaves, the host names and removes.
            let _ = self.podman(["rm", "--force", "--all", "--time=0"]).spawn();
            return;
        }
        self.podman(["pod", "rm", "--force", "--all", "--time=0"])
            .output()
            .with_code(0);
        self.podman(["rm", "--force", "--all", "--time=0"])
            .output()
            .with_code(0);
        let left = self.leftovers();
        for own in [CONMON_CGROUP, CGROUPS, PROBE_CGROUP] {
            // The last conmon may not have ended yet; then the host waits for it and removes them.
            let _ = fs::remove_dir(own);
        }
        // There is none without a container.
        let _ = fs::remove_file(LOCKS);
        assert!(
            left.is_empty(),
            "podman left behind:\n    {}",
            left.join("\n    ")
        );
    }
}
