//! podman and buildah with `bulkhead` as their runtime.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use super::bulkhead::Invocation;
use super::engine::{EngineHost, Parents};
use super::{Host, Systemd, image};

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
    engine: EngineHost,
}

impl Podman {
    /// Makes one, with [`IMAGE`] in its store.
    ///
    /// # Panics
    /// podman is not installed or does not work.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it waits and takes a lock")]
    pub fn new() -> Self {
        Self::on(EngineHost::with_cgroupfs())
    }

    /// Makes one that has a systemd make the cgroups.
    ///
    /// # Panics
    /// podman or systemd does not work.
    #[must_use]
    pub fn with_systemd() -> Self {
        Self::on(EngineHost::with_systemd())
    }

    fn on(engine: EngineHost) -> Self {
        let (host, storage) = (engine.host(), engine.storage());
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
cgroup_manager = \"{}\"
events_logger = \"file\"
runtime = \"bulkhead\"
[engine.runtimes]
bulkhead = [\"{}\"]
[network]
network_backend = \"netavark\"
network_config_dir = \"{}\"
",
                engine.cgroup_driver(),
                engine.runtime().display(),
                storage.join("networks").display()
            ),
        );
        let podman = Self { engine };
        let archive = image::archive(podman.host().folder());
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
        self.engine.runtime()
    }

    /// The host it is on.
    #[must_use]
    pub fn host(&self) -> &Host {
        self.engine.host()
    }

    /// The systemd that makes the cgroups.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn systemd(&self) -> &Systemd {
        self.engine.systemd()
    }

    fn program<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Invocation {
        let mut command = Command::new(name);
        command
            .env("CONTAINERS_CONF", self.host().folder().join("containers.conf"))
            .env(
                "CONTAINERS_STORAGE_CONF",
                self.host().folder().join("storage.conf"),
            )
            .args(args);
        self.engine.invocation(command)
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
        let cgroups = Parents {
            folder: CGROUPS,
            slice: "machine.slice",
            // Those of the processes that hold containers' stdio go on their own.
            may_stay: |path| path.to_string_lossy().contains("conmon"),
        };
        let left = self.engine.leftovers(STATE, cgroups, &[]);
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
