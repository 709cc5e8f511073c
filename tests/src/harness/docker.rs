//! Docker's daemon with `bulkhead` as its runtime.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::thread;

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use super::bulkhead::{Invocation, Running};
use super::engine::{EngineHost, Parents};
use super::{Host, Systemd, daemon, image, processes};

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
    /// With their names, in the order in which they are ended.
    daemons: Vec<(&'static str, Running)>,
    engine: EngineHost,
}

impl Docker {
    /// Starts one, with [`IMAGE`] in its store.
    ///
    /// # Panics
    /// docker is not installed or does not start.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it waits and takes a lock")]
    pub fn new() -> Self {
        Self::on(EngineHost::with_cgroupfs())
    }

    /// Starts one that has a systemd make the cgroups.
    ///
    /// # Panics
    /// docker or systemd does not start.
    #[must_use]
    pub fn with_systemd() -> Self {
        Self::on(EngineHost::with_systemd())
    }

    fn on(engine: EngineHost) -> Self {
        let storage = engine.storage();
        let settings = json!({
            "data-root": storage,
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "hosts": ["unix:///run/docker.sock"],
            "containerd": CONTAINERD,
            "exec-opts": [format!("native.cgroupdriver={}", engine.cgroup_driver())],
            "runtimes": {"bulkhead": {"path": engine.runtime()}},
            "default-runtime": "bulkhead",
        });
        let settings = engine.host().file("daemon.json", settings.to_string());
        // Docker would give a containerd of its own 15 seconds to start.
        let place = |command| engine.invocation(command);
        let containerd = daemon::start_on(
            place,
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
        let dockerd = daemon::start_on(
            place,
            "dockerd",
            ["--config-file".as_ref(), settings.as_os_str()],
            "API listen on",
        );
        let docker = Self {
            daemons: vec![("dockerd", dockerd), ("containerd", containerd)],
            engine,
        };
        let archive = image::archive(docker.host().folder());
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
            .env("DOCKER_CONFIG", self.host().folder())
            .env("DOCKER_HOST", "unix:///run/docker.sock")
            .args(args);
        self.engine.invocation(command)
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
}

impl Drop for Docker {
    fn drop(&mut self) {
        if thread::panicking() {
            // Whatever this leaves, the host names and removes.
            return;
        }
        let cgroups = Parents {
            folder: CGROUPS,
            slice: "system.slice",
            may_stay: |path| path.extension().is_some_and(|kind| kind == "service"),
        };
        let left = self.engine.leftovers(STATE, cgroups, &["docker0"]);
        for (name, daemon) in self.daemons.drain(..) {
            // What was started may have gone to where systemd is, and wait there for the daemon.
            let pid = match processes::name(daemon.pid()) {
                Some(own) if own == name => daemon.pid(),
                _ => processes::descendant_named(daemon.pid(), name),
            };
            kill(pid, Signal::SIGTERM).expect("it runs");
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
