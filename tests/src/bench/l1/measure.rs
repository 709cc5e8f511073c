//! The stopwatch.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::beside::Beside;
use super::launch::{Launched, Prepared, too_long};
use super::processes::{self, clear};
use super::rest::settle;
use super::{log, marks, memory};
use crate::bench::plan::{Experiment, Line, Reply, Sample, Until};

/// How often something is started that takes too long.
pub const TRIES: usize = 3;

/// Measures an experiment as often as it wants, after one run that is not counted, and replies as it goes.
pub fn all_runs(experiment: &Experiment, reply: &dyn Fn(&Reply)) {
    let nobody = processes::all();
    if let Err(error) = try_all_runs(experiment, reply) {
        let errors = fs::read_to_string("/run/stderr").unwrap_or_default();
        reply(&Reply::Failed(
            experiment.name.clone(),
            format!("{error}\n{errors}"),
        ));
    }
    clear(&nobody);
}

fn try_all_runs(experiment: &Experiment, reply: &dyn Fn(&Reply)) -> io::Result<()> {
    let late = |error: &io::Error| reply(&Reply::Again(experiment.name.clone(), error.to_string()));
    let mut beside = Beside::default();
    let mut tries = TRIES;
    let mut run = 0;
    while run <= experiment.runs {
        beside.complete(experiment, &late)?;
        let others = processes::all();
        match one_run(experiment, &others) {
            Err(error) if is_late(&error) && tries > 1 => {
                late(&error);
                tries -= 1;
            }
            result => {
                let (sample, lines) = result?;
                if run > 0 {
                    reply(&Reply::Sample(experiment.name.clone(), sample));
                }
                if run == experiment.runs && experiment.log.is_some() {
                    reply(&Reply::Log(experiment.name.clone(), lines));
                }
                tries = TRIES;
                run += 1;
            }
        }
        clear(&others);
    }
    Ok(())
}

/// Once in some hundred boots a guest stands still: the emulator may deliver an interrupt a second time
/// (docs/performance.md), and the guest waits for ever for a lock that it holds.
pub fn is_late(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

fn one_run(experiment: &Experiment, others: &BTreeSet<u32>) -> io::Result<(Sample, Vec<Line>)> {
    let prepared = Prepared::new(&experiment.start)?;
    if let Some(path) = &experiment.log {
        File::create(path)?;
    }
    settle()?;
    let (milliseconds, time, _launched) = within(experiment.limit(), others, || {
        marks::begin();
        let (start, time) = (Instant::now(), SystemTime::now());
        let mut launched = prepared.start()?;
        let took = wait(&mut launched, &experiment.until)?;
        let milliseconds = took.unwrap_or_else(|| start.elapsed()).as_secs_f64() * 1e3;
        marks::end();
        Ok((milliseconds, time, launched))
    })?;
    let memory = (experiment.until != Until::Exit).then(|| memory::of_processes_since(others));
    let lines = match &experiment.log {
        Some(path) => log::read(path, time)?,
        None => Vec::new(),
    };
    Ok((Sample { milliseconds, memory }, lines))
}

/// Waits for what is to be waited for; answers how long that took if it has said so itself.
pub fn wait(launched: &mut Launched, until: &Until) -> io::Result<Option<Duration>> {
    match until {
        Until::Exit => {
            let Some(process) = &mut launched.process else {
                return Err(io::Error::other("a task has no process here to wait for"));
            };
            let status = process.wait()?;
            if !status.success() {
                return Err(io::Error::other(status.to_string()));
            }
        }
        Until::Printed(text) => launched.wait_for_text(text)?,
        Until::AgentDialled => launched.wait_for_agent()?,
        // It does when it has been started.
        Until::TaskRuns => {}
        Until::TookPrinted => return launched.wait_for_duration().map(Some),
    }
    Ok(None)
}

/// Does something that starts processes and waits for them.
///
/// # Errors
/// `TimedOut` if that takes longer than `limit`; everybody but `others` has been killed then.
pub fn within<T>(
    limit: Duration,
    others: &BTreeSet<u32>,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    thread::scope(|scope| {
        let (ended, watch) = channel::<()>();
        let watcher = scope.spawn(move || {
            let timed_out = watch.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if timed_out {
                processes::all_but(others).into_iter().for_each(processes::kill);
            }
            timed_out
        });
        let result = act();
        drop(ended);
        match watcher.join() {
            Ok(true) => Err(too_long(limit)),
            _ => result,
        }
    })
}
