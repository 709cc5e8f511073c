//! The stopwatch.

use std::fs;
use std::io;
use std::process::ExitStatus;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::wait;
use nix::unistd::Pid;

use super::launch::{InBackground, LIMIT, Launched, Prepared};
use super::memory;
use crate::bench::plan::{Experiment, Reply, Running, Sample, Until};

/// Measures an experiment as often as it wants, after one run that is not counted, and replies as it goes.
pub fn all_runs(experiment: &Experiment, reply: &dyn Fn(&Reply)) {
    for run in 0..=experiment.runs {
        match one_run(experiment, run) {
            Ok(sample) if run > 0 => reply(&Reply::Sample(experiment.name.clone(), sample)),
            Ok(_) => {}
            Err(error) => {
                let errors = fs::read_to_string("/run/stderr").unwrap_or_default();
                reply(&Reply::Failed(
                    experiment.name.clone(),
                    format!("{error}\n{errors}"),
                ));
                clear();
                return;
            }
        }
        clear();
    }
}

fn one_run(experiment: &Experiment, run: usize) -> io::Result<Sample> {
    let beside = experiment.beside.as_ref().map(|running| run_beside(running, run));
    let _beside = beside.transpose()?;
    let prepared = Prepared::new(&experiment.start, run)?;
    let start = Instant::now();
    let mut launched = prepared.start()?;
    match &experiment.until {
        Until::Exit => {
            let status = wait_with_limit(&mut launched)?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            if !status.success() {
                return Err(io::Error::other(status.to_string()));
            }
            return Ok(Sample {
                milliseconds,
                memory: None,
            });
        }
        Until::Printed(text) => launched.wait_for_text(text)?,
        Until::AgentDialled => launched.wait_for_agent()?,
    }
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    Ok(Sample {
        milliseconds,
        memory: Some(memory::of_all_processes()),
    })
}

/// Starts what is to run beside what is measured. It goes on until everything is killed.
fn run_beside(running: &Running, run: usize) -> io::Result<InBackground> {
    let mut launched = Prepared::new(&running.start, run)?.start()?;
    launched.wait_for_text(&running.printed)?;
    Ok(launched.into_background())
}

/// Waits for the process's end; everything is killed when that takes too long.
fn wait_with_limit(launched: &mut Launched) -> io::Result<ExitStatus> {
    thread::scope(|scope| {
        let (ended, watch) = channel::<()>();
        scope.spawn(move || {
            if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                kill_all();
            }
        });
        let status = launched.process.wait();
        drop(ended);
        status
    })
}

/// Kills and reaps everybody but pid 1, which is us.
fn clear() {
    kill_all();
    while wait() != Err(Errno::ECHILD) {}
}

fn kill_all() {
    // ESRCH: there is nobody.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
}
