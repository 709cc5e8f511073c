//! How long the stages of a container's start take.

use std::{cell::RefCell, collections::BTreeMap, time::Instant};

use crate::container::Stage;

/// Runs while the container starts.
#[derive(Default)]
pub struct Stopwatch {
    stage: RefCell<Option<(Stage, Instant)>>,
    took: RefCell<BTreeMap<String, f64>>,
}

impl Stopwatch {
    /// Ends the stage before, if there is one, and begins the next.
    pub fn enter(&self, stage: Stage) {
        self.leave();
        *self.stage.borrow_mut() = Some((stage, Instant::now()));
    }

    /// Ends the stage. Each has a line in the log.
    pub fn leave(&self) {
        if let Some((stage, since)) = self.stage.borrow_mut().take() {
            let seconds = since.elapsed().as_secs_f64();
            tracing::debug!(%stage, seconds, "stage done");
            *self.took.borrow_mut().entry(stage.to_string()).or_default() += seconds;
        }
    }

    /// The stages that have ended, and how many seconds each took.
    pub fn took(&self) -> BTreeMap<String, f64> {
        self.took.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_time() {
        let stopwatch = Stopwatch::default();
        stopwatch.leave();
        for stage in [Stage::Prepare, Stage::BootGuest, Stage::Prepare] {
            stopwatch.enter(stage);
        }
        assert_eq!(
            stopwatch.took().into_keys().collect::<Vec<_>>(),
            ["boot guest", "prepare"]
        );
        stopwatch.leave();
        let took = stopwatch.took();
        assert!(took.values().all(|seconds| *seconds > 0.0), "{took:?}");
    }
}
