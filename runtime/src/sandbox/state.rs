//! What is known of a container on disk: the record `state.json`. Its monitor is the only one to write it.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{Cgroup, Id, process::ProcessIdentity};

/// The record's format. A record of another version is not touched.
pub const VERSION: u32 = 2;

/// How far a container has come, by the runtime specification's names and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The microVM or the container is being made.
    Creating,
    /// The container waits at its start gate.
    Created,
    /// The program runs.
    Running,
    /// The program is held still.
    Paused,
    /// The program has ended, or what carried it has.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// How a container's first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// As the shell says it: a signal is 128 and its number.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code & 0xff,
            Self::Signal(signal) => signal.saturating_add(128) & 0xff,
        }
    }
}

/// A container's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The format of this record; one of another version is not touched.
    pub version: u32,
    /// The container.
    pub id: Id,
    /// The container whose monitor owns the microVM: this one, or the one that it joined.
    pub sandbox: Id,
    /// Its stand-in on the host.
    pub monitor: ProcessIdentity,
    /// How far it had come when this was written.
    pub status: Status,
    /// How its first process ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Whether its memory limit had a process killed in the guest before that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The root file system's folder.
    pub rootfs: PathBuf,
    /// The sandbox's cgroup on the host.
    pub cgroup: Cgroup,
    /// The network namespace that `config.json` names by its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<PathBuf>,
    /// When it was created, in RFC 3339 with nanoseconds.
    pub created: String,
    /// How many seconds each stage of its start took, by the stage's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stages: BTreeMap<String, f64>,
    /// From `config.json`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A container's first record: what is known when it is created.
#[derive(Debug, Clone)]
pub struct NewState {
    /// The container.
    pub id: Id,
    /// The container whose monitor owns the microVM.
    pub sandbox: Id,
    /// Its stand-in on the host.
    pub monitor: ProcessIdentity,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The root file system's folder.
    pub rootfs: PathBuf,
    /// The sandbox's cgroup on the host.
    pub cgroup: Cgroup,
    /// The network namespace that `config.json` names by its path.
    pub network: Option<PathBuf>,
    /// From `config.json`.
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// The record of a container that is being created now.
    pub fn creating(new: NewState) -> Self {
        let NewState {
            id,
            sandbox,
            monitor,
            bundle,
            rootfs,
            cgroup,
            network,
            annotations,
        } = new;
        Self {
            version: VERSION,
            id,
            sandbox,
            monitor,
            status: Status::Creating,
            exit: None,
            oom_killed: false,
            bundle,
            rootfs,
            cgroup,
            network,
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            stages: BTreeMap::new(),
            annotations,
        }
    }

    /// The status now: a container whose stand-in has gone is stopped, whatever the record says.
    pub fn current_status(&self) -> Status {
        if self.monitor.is_alive() {
            self.status
        } else {
            Status::Stopped
        }
    }

    /// The stand-in's pid for callers: zero when the container is stopped.
    pub fn current_pid(&self) -> i32 {
        match self.current_status() {
            Status::Stopped => 0,
            _ => self.monitor.pid,
        }
    }

    /// Whether the microVM is this container's own, and ends with it.
    pub fn owns_sandbox(&self) -> bool {
        self.id == self.sandbox
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_told_as_the_shell_does() {
        assert_eq!(Exit::Code(3).code(), 3);
        assert_eq!(Exit::Code(256 + 3).code(), 3);
        assert_eq!(Exit::Signal(9).code(), 137);
    }

    #[test]
    fn an_exit_is_one_word_and_a_number() {
        let text = serde_json::to_string(&[Exit::Code(3), Exit::Signal(9)]).expect("serialisable");
        assert_eq!(text, r#"[{"code":3},{"signal":9}]"#);
    }
}
