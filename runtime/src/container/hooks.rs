//! The hooks that are run on the host, in the namespaces and the cgroup of the caller: prestart and createRuntime before
//! the container is built, poststart after its program has been executed, poststop after its deletion. The agent runs
//! the others.

use std::{collections::BTreeMap, path::Path};

use bulkhead_agent_protocol::hook::{Hook, HookError, Hooks};
use serde::Serialize;

use crate::{
    oci::OCI_VERSION,
    sandbox::{Id, State, Status},
};

/// When hooks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The stand-in and its network namespace are there, the container is not; the older name.
    Prestart,
    /// The same, by its newer name; after the former.
    CreateRuntime,
    /// The program runs.
    Poststart,
    /// Everything has been removed.
    Poststop,
}

/// A hook that failed, by its place in `config.json`.
#[derive(Debug, thiserror::Error)]
#[error("hooks.{list}[{index}]: {source}")]
pub struct HookFailure {
    list: &'static str,
    index: usize,
    source: HookError,
}

/// The state that hooks are told, as the runtime specification words it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HookState<'a> {
    oci_version: &'static str,
    id: &'a Id,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// A container's state for hooks, with that status.
pub fn state(record: &State, status: Status) -> Vec<u8> {
    let state = HookState {
        oci_version: OCI_VERSION,
        id: &record.id,
        status,
        pid: (status != Status::Stopped).then_some(record.monitor.pid),
        bundle: &record.bundle,
        annotations: &record.annotations,
    };
    serde_json::to_vec(&state).expect("a state has text for keys, and a bundle's path is text")
}

impl Point {
    fn of(self, hooks: &Hooks) -> (&'static str, &[Hook]) {
        match self {
            Self::Prestart => ("prestart", &hooks.prestart),
            Self::CreateRuntime => ("createRuntime", &hooks.create_runtime),
            Self::Poststart => ("poststart", &hooks.poststart),
            Self::Poststop => ("poststop", &hooks.poststop),
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Prestart | Self::CreateRuntime => Status::Creating,
            Self::Poststart => Status::Running,
            Self::Poststop => Status::Stopped,
        }
    }
}

/// Runs the hooks of a point in their order. Returns when they have ended.
///
/// # Errors
/// The first that fails; those after it are not run.
pub fn run(point: Point, hooks: &Hooks, record: &State) -> Result<(), HookFailure> {
    let (list, hooks) = point.of(hooks);
    if hooks.is_empty() {
        return Ok(());
    }
    let state = state(record, point.status());
    hooks.iter().enumerate().try_for_each(|(index, hook)| {
        tracing::debug!(list, index, path = hook.path, "run hook");
        hook.run(&state)
            .map_err(|source| HookFailure { list, index, source })
    })
}

/// Runs the poststop hooks, all of them: one that fails is said in the log only.
pub fn run_poststop(hooks: &Hooks, record: &State) {
    if hooks.poststop.is_empty() {
        return;
    }
    let state = state(record, Point::Poststop.status());
    for (index, hook) in hooks.poststop.iter().enumerate() {
        if let Err(source) = hook.run(&state) {
            let failure = HookFailure {
                list: "poststop",
                index,
                source,
            };
            tracing::warn!("{failure}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::sandbox::{NewState, ProcessIdentity};

    fn record() -> State {
        State::creating(NewState {
            id: Id::try_from("web".to_owned()).expect("a name"),
            sandbox: Id::try_from("web".to_owned()).expect("a name"),
            monitor: ProcessIdentity::current().expect("this process"),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            cgroup: "/sys/fs/cgroup/x".into(),
            network: None,
            annotations: [("k".to_owned(), "v".to_owned())].into(),
        })
    }

    fn hooks(value: Value) -> Hooks {
        serde_json::from_value(value).expect("hooks")
    }

    /// A hook that appends its state to a file.
    fn recording(file: &Path) -> Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", format!("/bin/cat >> {0}; echo >> {0}", file.display())]})
    }

    #[test]
    fn each_point_has_its_status_and_the_stand_ins_pid() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("states");
        let hook = recording(&file);
        let hooks = hooks(json!({
            "prestart": [hook], "createRuntime": [hook], "poststart": [hook], "poststop": [hook],
        }));
        for point in [Point::Prestart, Point::CreateRuntime, Point::Poststart] {
            run(point, &hooks, &record()).expect("it succeeds");
        }
        run_poststop(&hooks, &record());
        let text = fs::read_to_string(file).expect("the file");
        let states: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let expected = |status: &str| {
            json!({
                "ociVersion": OCI_VERSION, "id": "web", "status": status, "pid": std::process::id(), "bundle": "/b",
                "annotations": {"k": "v"},
            })
        };
        let mut stopped = expected("stopped");
        stopped.as_object_mut().expect("an object").remove("pid");
        assert_eq!(
            states,
            [
                expected("creating"),
                expected("creating"),
                expected("running"),
                stopped
            ]
        );
    }

    #[test]
    fn a_failure_ends_a_list_but_for_poststop() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("states");
        let failing = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 3"]});
        let list = json!([recording(&file), failing, recording(&file)]);
        let hooks = hooks(json!({"prestart": list, "poststop": list}));
        let failure = run(Point::Prestart, &hooks, &record()).expect_err("the second fails");
        assert_eq!(
            failure.to_string(),
            "hooks.prestart[1]: hook /bin/sh: exit status 3: no"
        );
        let count = || fs::read_to_string(&file).expect("the file").lines().count();
        assert_eq!(count(), 1);
        run_poststop(&hooks, &record());
        assert_eq!(count(), 3);
    }
}
