//! The hooks that are run in the guest: createContainer in the container's namespaces while the guest's root is still
//! there, startContainer as the container's process just before its program. The host's side runs the others.

use std::{io, path::Path};

use bulkhead_agent_protocol::hook::{Hook, HookError, Hooks};
use rustix::process::getpid;
use serde_json::{Map, Value};

use super::spec::SpecError;
use crate::failure::Failure;

/// The hooks, and the state that they are told.
#[derive(Debug, Default)]
pub struct GuestHooks {
    hooks: Hooks,
    state: Map<String, Value>,
}

impl GuestHooks {
    /// Of a container whose state the host has written down; none when it has no hooks here.
    ///
    /// # Errors
    /// When the state is no JSON object, or a hook breaks a rule.
    pub fn new(hooks: Hooks, state: &[u8]) -> Result<Self, SpecError> {
        for (name, list) in hooks.lists() {
            for (index, hook) in list.iter().enumerate() {
                hook.check().map_err(|(field, problem)| {
                    SpecError::invalid(format!("hooks.{name}[{index}].{field}"), problem)
                })?;
            }
        }
        let state = if state.is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(state)?
        };
        Ok(Self { hooks, state })
    }

    /// Runs the createContainer hooks.
    ///
    /// # Errors
    /// The first that fails.
    pub fn create_container(&self) -> Result<(), Failure> {
        self.run("createContainer", &self.hooks.create_container, "creating")
    }

    /// Runs the startContainer hooks.
    ///
    /// # Errors
    /// The first that fails.
    pub fn start_container(&self) -> Result<(), Failure> {
        self.run("startContainer", &self.hooks.start_container, "created")
    }

    fn run(&self, name: &str, hooks: &[Hook], status: &str) -> Result<(), Failure> {
        if hooks.is_empty() {
            return Ok(());
        }
        let mut state = self.state.clone();
        state.insert("status".to_owned(), status.into());
        state.insert("pid".to_owned(), getpid().as_raw_nonzero().get().into());
        let state = Value::Object(state).to_string();
        hooks.iter().enumerate().try_for_each(|(index, hook)| {
            hook.run(state.as_bytes(), None).map_err(|error| {
                let hint = if needs_another_file(&error) {
                    NOT_STATIC
                } else {
                    ""
                };
                Failure::new(format!("hooks.{name}[{index}]: {error}{hint}"))
            })
        })
    }
}

/// Why a program that is there is not found. Around a createContainer hook there is nothing but its own file.
const NOT_STATIC: &str =
    "; it is there, but not the interpreter or the loader that it needs: make it a static executable";

/// Whether the hook's program is there, but not the file by which the kernel would run it.
fn needs_another_file(error: &HookError) -> bool {
    match error {
        HookError::Run { path, source } => {
            source.kind() == io::ErrorKind::NotFound && Path::new(path).exists()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_hook_is_told_the_state_of_its_point() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        let script = format!("cat > {}", file.display());
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]});
        let hooks = serde_json::from_value(json!({"startContainer": [hook]})).unwrap();
        let hooks = GuestHooks::new(hooks, br#"{"id": "a", "bundle": "/b", "pid": 7}"#).unwrap();
        hooks.create_container().unwrap();
        assert!(!file.exists());
        hooks.start_container().unwrap();
        let state: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(
            state,
            json!({"id": "a", "bundle": "/b", "pid": std::process::id(), "status": "created"})
        );
    }

    #[test]
    fn the_first_failure_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("second");
        let hooks = json!({"createContainer": [
            {"path": "/bin/false"}, {"path": "/usr/bin/touch", "args": ["touch", file]},
        ]});
        let hooks = GuestHooks::new(serde_json::from_value(hooks).unwrap(), b"").unwrap();
        assert_eq!(
            hooks.create_container().unwrap_err().to_string(),
            "hooks.createContainer[0]: hook /bin/false: exit status 1"
        );
        assert!(!file.exists());
    }

    #[test]
    fn a_program_that_lacks_its_interpreter_is_told_from_one_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let failure = |path: &Path| {
            let hooks = serde_json::from_value(json!({"createContainer": [{"path": path}]})).unwrap();
            let hooks = GuestHooks::new(hooks, b"").unwrap();
            hooks.create_container().unwrap_err().to_string()
        };
        assert!(failure(&script).ends_with("make it a static executable"));
        assert!(failure(&folder.path().join("missing")).ends_with("(os error 2)"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let hooks = serde_json::from_value(json!({"startContainer": [{"path": "relative"}]})).unwrap();
        assert_eq!(
            GuestHooks::new(hooks, b"").unwrap_err().to_string(),
            "hooks.startContainer[0].path: \"relative\" is not an absolute path"
        );
        assert!(GuestHooks::new(Hooks::default(), b"[]").is_err());
    }
}
