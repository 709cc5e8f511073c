//! A container's state as the runtime specification words it: what `state` prints and what hooks are given.

use serde_json::{Value, json};

use crate::{oci::OCI_VERSION, sandbox::State};

/// The state document, with the members that runc adds.
pub fn describe(state: &State) -> Value {
    let mut document = json!({
        "ociVersion": OCI_VERSION,
        "id": state.id,
        "pid": state.current_pid(),
        "status": state.current_status(),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "owner": "root",
    });
    if let Some(members) = document.as_object_mut()
        && !state.annotations.is_empty()
    {
        members.insert("annotations".to_owned(), json!(state.annotations));
    }
    document
}
