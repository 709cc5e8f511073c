//! Docker's daemon with `bulkhead` as its runtime.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::json;

use super::bulkhead::{Invocation, Running};
use super::{Host, engine_runtime, image, seclusion};

/// The image that every [`Docker`] has.
pub const IMAGE: &str = "busybox";
/// Below it docker makes the cgroups of its containers.
const CGROUPS: &str = "/sys/fs/cgroup/docker";
/// Where the runtime keeps its state, as containerd's shim says it.
const STATE: &str = "/run/docker/runtime-runc/moby";
/// Debian's client, which is as old as its daemon.
const CLIENT: &str = "/usr/bin/docker";

/// A docker daemon of the test's own, secluded from the machine's. Dropping it removes its containers, ends it, and
/// fails the test if anything is left of them.
pub struct Docker {
    daemon: Option<Running>,
    host: Host,
}

impl Docker {
    /// Starts one, with [`IMAGE`] in its store.
    ///
    /// # Panics
    /// docker is not installed or does not start.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it waits and takes a lock")]
    pub fn new() -> Self {
        let host = Host::new();
        let storage = host.folder().join("storage");
        seclusion::seclude(&storage);
        let settings = json!({
            "data-root": storage,
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "hosts": ["unix:///run/docker.sock"],
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "runtimes": {"bulkhead": {"path": engine_runtime(&host)}},
            "default-runtime": "bulkhead",
        });
        let settings = host.file("daemon.json", settings.to_string());
        // The daemon says on stderr when it is ready.
        let mut daemon = Command::new("sh");
        daemon
            .args(["-c", "exec dockerd --config-file \"$0\" 2>&1"])
            .arg(settings);
        let daemon = Invocation::new(daemon).spawn();
        daemon.wait_for("API listen on");
        let docker = Self {
            daemon: Some(daemon),
            host,
        };
        let archive = image::archive(docker.host.folder());
        docker
            .docker(["import"])
            .arg(archive)
            .arg(IMAGE)
            .output()
            .with_code(0);
        docker
    }

    /// `docker` with these arguments.
    #[must_use]
    pub fn docker<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        let mut command = Command::new(CLIENT);
        command
            .env("DOCKER_CONFIG", self.host.folder())
            .env("DOCKER_HOST", "unix:///run/docker.sock")
            .args(args);
        Invocation::new(command)
    }

    /// What is still there although no container is.
    fn leftovers() -> Vec<String> {
        let entries = |folder: &str| fs::read_dir(Path::new(folder)).into_iter().flatten().flatten();
        let state = entries(STATE).map(|entry| entry.path());
        let cgroups = entries(CGROUPS)
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        let interfaces = seclusion::interfaces()
            .into_iter()
            .filter(|name| !["lo", "docker0"].contains(&name.as_str()));
        state
            .chain(cgroups)
            .map(|path| path.display().to_string())
            .chain(interfaces.map(|name| format!("network interface {name}")))
            .collect()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        if thread::panicking() {
            // Whatever this leaves, the host names and removes.
            drop(daemon);
            return;
        }
        let left = Self::leftovers();
        daemon.signal(Signal::SIGTERM);
        let ended = daemon.wait();
        // Docker's own, and empty by now.
        let _ = fs::remove_dir(CGROUPS);
        assert!(
            left.is_empty(),
            "docker left behind:\n    {}",
            left.join("\n    ")
        );
        ended.with_code(0);
    }
}
