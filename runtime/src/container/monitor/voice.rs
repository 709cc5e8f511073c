//! How a monitor says what happens: to the caller's process as long as that listens, and then in the log.

use tokio::{io::AsyncWriteExt, net::unix::OwnedWriteHalf};

use crate::container::{Failure, Notice};

/// A monitor's voice.
pub struct Voice {
    caller: Option<OwnedWriteHalf>,
}

impl Voice {
    /// With the caller listening.
    pub fn new(caller: OwnedWriteHalf) -> Self {
        Self { caller: Some(caller) }
    }

    /// Tells the caller, if it listens. One that has gone is not missed here.
    pub async fn say(&mut self, notice: &Notice) {
        if let Some(caller) = &mut self.caller
            && caller.write_all(&notice.line()).await.is_err()
        {
            self.caller = None;
        }
    }

    /// Tells the caller of a failure, or the log if nobody listens.
    pub async fn complain(&mut self, failure: &Failure) {
        self.say(&Notice::of(failure)).await;
        if self.caller.is_none() {
            tracing::error!(console = failure.console().join("\n"), "{failure}");
        }
    }

    /// Lets the caller go.
    pub fn hang_up(&mut self) {
        self.caller = None;
    }
}
