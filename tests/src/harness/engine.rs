//! What container engines have in common: a corner of the machine, apart from the machine's own engine, and what they
//! are not to leave in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::bulkhead::Invocation;
use super::leaks::entries;
use super::{Host, Systemd, engine_runtime, seclusion};

/// Where a container engine runs. Made in the thread that starts the engine, which is secluded by it.
pub struct EngineHost {
    /// Who makes the cgroups, if the engine does not.
    systemd: Option<Systemd>,
    host: Host,
}

impl EngineHost {
    /// One on which an engine makes the cgroups itself.
    #[must_use]
    pub fn with_cgroupfs() -> Self {
        let host = Host::new();
        seclusion::seclude(&storage(&host));
        Self { systemd: None, host }
    }

    /// One on which a systemd of its own makes the cgroups.
    ///
    /// # Panics
    /// systemd does not come up.
    #[must_use]
    pub fn with_systemd() -> Self {
        let host = Host::new();
        seclusion::seclude(&storage(&host));
        Self {
            systemd: Some(Systemd::start(&host)),
            host,
        }
    }

    /// Who makes the cgroups, as engines call it.
    #[must_use]
    pub fn cgroup_driver(&self) -> &'static str {
        self.systemd.as_ref().map_or("cgroupfs", |_| "systemd")
    }

    /// A file system in memory for images and containers.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        storage(&self.host)
    }

    /// The program that containers are run with.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        engine_runtime(&self.host)
    }

    /// The test's own corner.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The systemd that makes the cgroups.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn systemd(&self) -> &Systemd {
        self.systemd.as_ref().expect("made with a systemd")
    }

    /// The command, to be run here.
    #[must_use]
    pub fn invocation(&self, command: Command) -> Invocation {
        let invocation = Invocation::new(command);
        match &self.systemd {
            None => invocation,
            Some(systemd) => invocation.in_host_of(systemd),
        }
    }

    /// What is still there although no container is: of the runtime in the folder `state`, cgroups, and network interfaces
    /// but for those named.
    #[must_use]
    pub fn leftovers(&self, state: &str, cgroups: Parents<'_>, interfaces: &[&str]) -> Vec<String> {
        let (state, folder) = match &self.systemd {
            None => (PathBuf::from(state), PathBuf::from(cgroups.folder)),
            Some(systemd) => (systemd.file(state), systemd.cgroup(cgroups.slice)),
        };
        let own = |path: &PathBuf| path.is_dir() && !(cgroups.may_stay)(path);
        let found = entries(state)
            .into_iter()
            .chain(entries(folder).into_iter().filter(own));
        found
            .map(|path| path.display().to_string())
            .chain(
                seclusion::interfaces()
                    .into_iter()
                    .filter(|name| name != "lo" && !interfaces.contains(&name.as_str()))
                    .map(|name| format!("network interface {name}")),
            )
            .collect()
    }
}

/// Where an engine's containers have their cgroups.
#[derive(Debug, Clone, Copy)]
pub struct Parents<'a> {
    /// Made by the engine itself, absolute.
    pub folder: &'a str,
    /// By systemd.
    pub slice: &'a str,
    /// Which cgroups in there are none of a container's.
    pub may_stay: fn(&Path) -> bool,
}

fn storage(host: &Host) -> PathBuf {
    host.folder().join("storage")
}
