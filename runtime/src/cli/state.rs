//! `bulkhead state`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Global, Status};
use crate::{
    oci::OCI_VERSION,
    sandbox::{Id, State as Record, StateError, StateFolder, Status as ContainerStatus},
};

/// Print a container's state as JSON
#[derive(Debug, Args)]
pub struct State {
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

impl State {
    pub fn execute(self, global: &Global) -> Status {
        let id = Id::try_from(self.id)?;
        let record = StateFolder::open(&global.root, &id)?
            .load()?
            .ok_or(StateError::Missing(id))?;
        println!("{:#}", Value::Object(describe(&record)));
        Ok(ExitCode::SUCCESS)
    }
}

/// The state as the runtime specification words it.
fn describe(record: &Record) -> Map<String, Value> {
    let status = record.current_status();
    let pid = if status == ContainerStatus::Stopped {
        0
    } else {
        record.monitor.pid
    };
    let mut state = Map::new();
    state.insert("ociVersion".to_owned(), json!(OCI_VERSION));
    state.insert("id".to_owned(), json!(record.id));
    state.insert("pid".to_owned(), json!(pid));
    state.insert("status".to_owned(), json!(status));
    state.insert("bundle".to_owned(), json!(record.bundle));
    state.insert("rootfs".to_owned(), json!(record.rootfs));
    state.insert("created".to_owned(), json!(record.created));
    if !record.annotations.is_empty() {
        state.insert("annotations".to_owned(), json!(record.annotations));
    }
    state.insert("owner".to_owned(), json!("root"));
    state
}
