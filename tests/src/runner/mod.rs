//! Runs the tests of libtest binaries one by one, each in a process of its own, over several workers.
//!
//! A worker is an L1 where the host's KVM cannot run guests, else a slot on the host. A test that fails has failed. Only
//! a lost L1, and an L1 whose processor was seen to go wrong, is the testbed's failure and not the test's: the worker
//! gets a new one, and that test another try.

mod build;
mod durations;
mod flags;
mod host;
mod list;
mod worker;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::testbed::place::Place;
use crate::testbed::{Error, Options};
pub use build::build_integration_tests;
use durations::Durations;
pub use list::Test;
use worker::{Outcome, Verdict, Worker};

/// What to run and how.
#[derive(Debug)]
pub struct Plan {
    /// Binaries made by libtest.
    pub binaries: Vec<PathBuf>,
    /// Only tests whose `binary::name` contains this.
    pub filter: Option<String>,
    /// How many tests run at a time.
    pub jobs: usize,
    /// What one test may take.
    pub limit: Duration,
    /// Remembers how long tests took, so that the longest start first.
    pub durations: Option<PathBuf>,
    /// Where they run.
    pub place: Place,
    /// What the L1s are made of.
    pub l1: Options,
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tests that did what they promise.
    pub passed: usize,
    /// Tests that did not.
    pub failed: usize,
}

impl Summary {
    /// Whether something was tested and nothing failed.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The integration tests do not compile, or there are none.
    #[error("{0}")]
    Build(String),
    /// A binary does not list its tests.
    #[error("{} --list: {source}", binary.display())]
    List {
        /// The binary.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The testbed failed for good.
    #[error(transparent)]
    Testbed(#[from] Error),
}

/// Runs the plan; prints a line per test and what failed tests printed.
///
/// # Errors
/// A binary cannot be listed, or the testbed fails for good. Failed tests are no error but in the summary.
pub fn run(plan: &Plan) -> Result<Summary, RunError> {
    let mut tests = list::tests(&plan.binaries, plan.filter.as_deref())?;
    let durations = Durations::load(plan.durations.as_deref());
    tests.sort_by(|a, b| durations.expected(b).total_cmp(&durations.expected(a)));
    let workers = plan.jobs.clamp(1, tests.len().max(1));
    println!(
        "running {} tests, {workers} at a time, {}",
        tests.len(),
        plan.place
    );

    let progress = Mutex::new(Progress::new(tests.len(), durations));
    let queue = Mutex::new(VecDeque::from(tests));
    let mut failure = None;
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=workers)
            .map(|number| {
                let worker = Worker::new(number, plan);
                scope.spawn(|| serve(worker, &queue, &progress))
            })
            .collect();
        for worker in workers {
            if let Err(error) = worker.join().expect("a worker does not panic") {
                failure = Some(error);
            }
        }
    });
    let progress = progress.into_inner().expect("no holder panics");
    progress.durations.save();
    // A worker without a testbed leaves its tests to the others.
    match failure {
        Some(error) if !queue.into_inner().expect("no holder panics").is_empty() => Err(error.into()),
        _ => Ok(progress.summarise()),
    }
}

fn serve(
    mut worker: Worker<'_>,
    queue: &Mutex<VecDeque<Test>>,
    progress: &Mutex<Progress>,
) -> Result<(), Error> {
    loop {
        let Some(test) = queue.lock().expect("no holder panics").pop_front() else {
            return Ok(());
        };
        match worker.run(&test) {
            Ok(outcome) => progress.lock().expect("no holder panics").tell(&test, outcome),
            Err(error) => {
                queue.lock().expect("no holder panics").push_front(test);
                return Err(error);
            }
        }
    }
}

struct Progress {
    all: usize,
    summary: Summary,
    failed: Vec<String>,
    durations: Durations,
}

impl Progress {
    fn new(all: usize, durations: Durations) -> Self {
        Self {
            all,
            summary: Summary::default(),
            failed: Vec::new(),
            durations,
        }
    }

    fn tell(&mut self, test: &Test, outcome: Outcome) {
        let word = match &outcome.verdict {
            Verdict::Passed => {
                self.summary.passed += 1;
                self.durations.note(test, outcome.took);
                "ok"
            }
            Verdict::Failed(_) => {
                self.summary.failed += 1;
                "FAILED"
            }
        };
        let done = self.summary.passed + self.summary.failed;
        println!(
            "[{done}/{}] {word:6} {:6.1} s  {test}",
            self.all,
            outcome.took.as_secs_f64()
        );
        if let Verdict::Failed(why) = outcome.verdict {
            println!(
                "---- {test}: {why}\n{}----",
                String::from_utf8_lossy(&outcome.output)
            );
            self.failed.push(test.to_string());
        }
    }

    fn summarise(&self) -> Summary {
        if !self.failed.is_empty() {
            println!("failed:");
            self.failed.iter().for_each(|test| println!("    {test}"));
        }
        println!("{} passed, {} failed", self.summary.passed, self.summary.failed);
        self.summary
    }
}

#[cfg(test)]
mod tests;
