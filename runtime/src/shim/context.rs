//! What all tasks of a shim share.

use std::sync::Arc;

use super::{events::Publisher, reaper::Reaper, standin::Commands};

/// What tasks work with.
#[derive(Debug)]
pub struct Context {
    /// containerd's namespace.
    pub namespace: String,
    /// The command line.
    pub commands: Commands,
    /// Who waits for children.
    pub reaper: Arc<Reaper>,
    /// Who tells containerd what happens.
    pub events: Publisher,
}
