//! Figures of sandboxes and of the containers in them, in Prometheus' text format.
//!
//! - `collect`: asks the host's cgroups and the guests
//! - `server`: answers scrapers, on a socket for each sandbox

mod collect;
pub mod server;

use std::{path::Path, time::Duration};

use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::sandbox::{StateError, StateFolder};
use collect::Figures;

/// How long a guest may take to answer: one that is stuck is not to keep the figures of others back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The figures of all sandboxes that have their state below `root`; of one, if its owner is given. Called inside a tokio runtime.
///
/// # Errors
/// The folder cannot be read. A sandbox that ends meanwhile, or does not answer, has only the figures that the host knows.
pub async fn text(root: &Path, sandbox: Option<&StateFolder>) -> Result<String, StateError> {
    let mut registry = Registry::with_prefix("bulkhead");
    let figures = Figures::register(&mut registry);
    let mut states = Vec::new();
    for folder in StateFolder::all(root)? {
        // One damaged record is no reason to hide the others.
        if let Ok(Some(state)) = folder.load() {
            states.push((folder, state));
        }
    }
    for (folder, owner) in states.iter().filter(|(_, state)| state.owns_sandbox()) {
        if sandbox.is_some_and(|sandbox| sandbox.id() != folder.id()) || !owner.monitor.is_alive() {
            continue;
        }
        let members = states.iter().map(|(_, state)| state);
        let members = members.filter(|state| state.sandbox == owner.id && state.monitor.is_alive());
        figures.collect(folder, owner, &members.collect::<Vec<_>>()).await;
    }
    let mut text = String::new();
    // Text takes everything.
    let _ = encode(&mut text, &registry);
    Ok(text)
}
