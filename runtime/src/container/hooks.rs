//! The hooks that are run on the host, in the namespaces and the cgroup of the caller: prestart and createRuntime before
//! the container is built, poststart after its program has been executed, poststop after its deletion. The agent runs
//! the others.

use std::os::fd::AsFd;

use bulkhead_agent_protocol::hook::{Hook, HookError, Hooks};
use serde_json::json;

use super::describe;
use crate::{
    oci::Spec,
    sandbox::{State, StateFolder, Status},
    signals,
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

/// A hook that did not succeed, by its place in `config.json`.
#[derive(Debug, thiserror::Error)]
pub enum HookFailure {
    /// It failed.
    #[error("hooks.{list}[{index}]: {source}")]
    Failed {
        /// Its list.
        list: &'static str,
        /// Its place there.
        index: usize,
        /// Why.
        source: HookError,
    },
    /// A signal asked the calling process to end; the hook was killed.
    #[error("hooks.{list}[{index}]: interrupted by signal {signal}")]
    Interrupted {
        /// Its list.
        list: &'static str,
        /// Its place there.
        index: usize,
        /// The signal's number.
        signal: i32,
    },
}

/// A container's state as hooks are told it, with that status.
pub fn state(record: &State, status: Status) -> Vec<u8> {
    let mut state = describe(record);
    state["status"] = json!(status);
    if status == Status::Stopped {
        state["pid"] = json!(0);
    } else {
        state["pid"] = json!(record.monitor.pid);
    }
    state.to_string().into_bytes()
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

/// Whether there are hooks to be run before the container is built.
pub fn any_before_creation(hooks: &Hooks) -> bool {
    !(hooks.prestart.is_empty() && hooks.create_runtime.is_empty())
}

/// The hooks of the container whose folder it is, as they were when it was created; none if that cannot be known.
pub fn of(folder: &StateFolder) -> Hooks {
    let spec = folder
        .load_config()
        .ok()
        .and_then(|document| Spec::view(&document).ok());
    spec.unwrap_or_default().hooks
}

/// Runs the hooks of a point in their order. Returns when they have ended. From then on the signals that end programs are
/// held back from the calling thread.
///
/// # Errors
/// The first that does not succeed; those after it are not run.
pub fn run(point: Point, hooks: &Hooks, record: &State) -> Result<(), HookFailure> {
    let (list, hooks) = point.of(hooks);
    if hooks.is_empty() {
        return Ok(());
    }
    let state = state(record, point.status());
    hooks.iter().enumerate().try_for_each(|(index, hook)| {
        tracing::debug!(list, index, path = hook.path, "run hook");
        run_one(list, index, hook, &state)
    })
}

/// Runs a hook. A signal that asks the calling process to end kills the hook instead, even one that runs for ever.
fn run_one(list: &'static str, index: usize, hook: &Hook, state: &[u8]) -> Result<(), HookFailure> {
    let failed = |source| HookFailure::Failed { list, index, source };
    let ending = signals::take_ending().map_err(|source| {
        failed(HookError::Run {
            path: hook.path.clone(),
            source,
        })
    })?;
    match hook.run(state, Some(ending.as_fd())) {
        Ok(()) => Ok(()),
        Err(error @ HookError::Interrupted { .. }) => Err(match signals::next(&ending) {
            Ok(signal) => HookFailure::Interrupted { list, index, signal },
            Err(_) => failed(error),
        }),
        Err(error) => Err(failed(error)),
    }
}

/// Runs the poststop hooks, all of them: one that does not succeed is said in the log only.
pub fn run_poststop(hooks: &Hooks, record: &State) {
    if hooks.poststop.is_empty() {
        return;
    }
    let state = state(record, Point::Poststop.status());
    for (index, hook) in hooks.poststop.iter().enumerate() {
        if let Err(failure) = run_one("poststop", index, hook, &state) {
            tracing::warn!("{failure}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        oci::OCI_VERSION,
        sandbox::{Cgroup, Driver, Id, NewState, ProcessIdentity},
    };

    fn record() -> State {
        let id = Id::try_from("web".to_owned()).expect("a name");
        State::creating(NewState {
            id: id.clone(),
            sandbox: id.clone(),
            monitor: ProcessIdentity::current().expect("this process"),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            cgroup: Cgroup::place(Driver::Cgroupfs, "/c".as_ref(), &id, "").expect("a place"),
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
        let told: Vec<_> = states
            .iter()
            .map(|state| (&state["status"], &state["pid"]))
            .collect();
        let pid = json!(std::process::id());
        let [creating, running, stopped] = ["creating", "running", "stopped"].map(Value::from);
        assert_eq!(
            told,
            [
                (&creating, &pid),
                (&creating, &pid),
                (&running, &pid),
                (&stopped, &json!(0))
            ]
        );
        for state in &states {
            assert_eq!(state["ociVersion"], OCI_VERSION);
            assert_eq!((&state["id"], &state["bundle"]), (&json!("web"), &json!("/b")));
            assert_eq!(state["annotations"], json!({"k": "v"}));
        }
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
