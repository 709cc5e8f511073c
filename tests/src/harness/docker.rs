//! Docker's daemon with `bulkhead` as its runtime.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::json;

use super::bulkhead::{Invocation, Running};
use super::leaks::entries;
use super::{Host, daemon, engine_runtime, image, seclusion};

/// The image that every [`Docker`] has.
pub const IMAGE: &str = "busybox";
/// Below it docker makes the cgroups of its containers.
const CGROUPS: &str = "/sys/fs/cgroup/docker";
/// Where containerd listens.
const CONTAINERD: &str = "/run/containerd.sock";
/// Where the runtime keeps its state, as containerd's shim says it.
const STATE: &str = "/run/docker/runtime-runc/moby";
/// Debian's client, which is as old as its daemon.
const CLIENT: &str = "/usr/bin/docker";

/// A docker daemon of the test's own, secluded from the machine's. Dropping it removes its containers, ends it, and
/// fails the test if anything is left of them.
pub struct Docker {
    /// In the order in which they are ended.
    daemons: Vec<Running>,
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
            "containerd": CONTAINERD,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "runtimes": {"bulkhead": {"path": engine_runtime(&host)}},
            "default-runtime": "bulkhead",
        });
        let settings = host.file("daemon.json", settings.to_string());
        // Docker would give a containerd of its own 15 seconds to start.
        let containerd = daemon::start(
            "containerd",
            [
                "--address".as_ref(),
                CONTAINERD.as_ref(),
                "--root".as_ref(),
                storage.join("containerd").as_os_str(),
                "--state".as_ref(),
                "/run/containerd".as_ref(),
            ],
            "containerd successfully booted",
        );
        let dockerd = daemon::start(
            "dockerd",
            ["--config-file".as_ref(), settings.as_os_str()],
            "API listen on",
        );
        let docker = Self {
            daemons: vec![dockerd, containerd],
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
        let state = entries(STATE);
        let cgroups = entries(CGROUPS).into_iter().filter(|path| path.is_dir());
        let interfaces = seclusion::interfaces()
            .into_iter()
            .filter(|name| !["lo", "docker0"].contains(&name.as_str()));
        state
            .into_iter()
            .chain(cgroups)
            .map(|path| path.display().to_string())
            .chain(interfaces.map(|name| format!("network interface {name}")))
            .collect()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if thread::panicking() {
            // Whatever this leaves, the host names and removes.
            return;
        }
        let left = Self::leftovers();
        for daemon in self.daemons.drain(..) {
            daemon.signal(Signal::SIGTERM);
            daemon.wait().with_code(0);
        }
        // Docker's own, and empty by now.
        let _ = fs::remove_dir(CGROUPS);
        assert!(
            left.is_empty(),
            "docker left behind:\n    {}",
            left.join("\n    ")
        );
    }
}
