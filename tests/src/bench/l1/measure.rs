//! The stopwatch.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::process::ExitStatus;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::Pid;

use super::launch::{InBackground, LIMIT, Launched, Prepared, too_long};
use super::{log, memory};
use crate::bench::plan::{Experiment, Line, Reply, Running, Sample, Until};

/// Measures an experiment as often as it wants, after one run that is not counted, and replies when all is measured. What takes
/// too long is begun anew, once: in the emulated host a guest now and then makes no progress.
pub fn all_runs(experiment: &Experiment, reply: &dyn Fn(&Reply)) {
    let nobody = memory::processes();
    let name = || experiment.name.clone();
    let replies = try_all_runs(experiment).or_else(|error| {
        if error.kind() != io::ErrorKind::TimedOut {
            return Err(error);
        }
        reply(&Reply::Again(name(), error.to_string()));
        clear(&nobody);
        try_all_runs(experiment)
    });
    match replies {
        Ok(replies) => replies.iter().for_each(reply),
        Err(error) => {
            let errors = fs::read_to_string("/run/stderr").unwrap_or_default();
            reply(&Reply::Failed(name(), format!("{error}\n{errors}")));
        }
    }
    clear(&nobody);
}

fn try_all_runs(experiment: &Experiment) -> io::Result<Vec<Reply>> {
    let mut beside = Vec::new();
    if let Some(running) = &experiment.beside {
        for _ in 0..running.count {
            beside.push(run_beside(running)?);
        }
    }
    let others = memory::processes();
    let mut replies = Vec::new();
    for run in 0..=experiment.runs {
        let (sample, lines) = one_run(experiment, &others)?;
        if run > 0 {
            replies.push(Reply::Sample(experiment.name.clone(), sample));
        }
        if run == experiment.runs && experiment.log.is_some() {
            replies.push(Reply::Log(experiment.name.clone(), lines));
        }
        clear(&others);
    }
    Ok(replies)
}

fn one_run(experiment: &Experiment, others: &BTreeSet<u32>) -> io::Result<(Sample, Vec<Line>)> {
    let prepared = Prepared::new(&experiment.start)?;
    if let Some(path) = &experiment.log {
        File::create(path)?;
    }
    settle()?;
    let (start, time) = (Instant::now(), SystemTime::now());
    let mut launched = prepared.start()?;
    let took = wait(&mut launched, &experiment.until)?;
    let milliseconds = took.unwrap_or_else(|| start.elapsed()).as_secs_f64() * 1e3;
    let memory = (experiment.until != Until::Exit).then(|| memory::of_processes_since(others));
    let lines = match &experiment.log {
        Some(path) => log::read(path, time)?,
        None => Vec::new(),
    };
    Ok((Sample { milliseconds, memory }, lines))
}

/// Lets the kernel do what the run before has left to it, and has every run begin at the same point between two ticks of
/// its timer.
fn settle() -> io::Result<()> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let then = TimeSpec::new(now.tv_sec() + 2, 0);
    clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &then,
    )?;
    Ok(())
}

/// Waits for what is to be waited for; answers how long that took if it has said so itself.
fn wait(launched: &mut Launched, until: &Until) -> io::Result<Option<Duration>> {
    match until {
        Until::Exit => {
            let status = wait_with_limit(launched)?;
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

/// Starts what is to run beside what is measured. It goes on until everything is killed.
fn run_beside(running: &Running) -> io::Result<InBackground> {
    let mut launched = Prepared::new(&running.start)?.start()?;
    wait(&mut launched, &running.until)?;
    Ok(launched.into_background())
}

/// Waits for the process's end.
///
/// # Errors
/// `TimedOut` if that takes too long; everything has been killed then.
fn wait_with_limit(launched: &mut Launched) -> io::Result<ExitStatus> {
    let Some(process) = &mut launched.process else {
        return Err(io::Error::other("a task has no process here to wait for"));
    };
    thread::scope(|scope| {
        let (ended, watch) = channel::<()>();
        let watcher = scope.spawn(move || {
            let timed_out = watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            if timed_out {
                // ESRCH: there is nobody.
                let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
            timed_out
        });
        let status = process.wait();
        drop(ended);
        match watcher.join() {
            Ok(true) => Err(too_long()),
            _ => status,
        }
    })
}

/// Kills everybody but `others`, and returns when they have gone.
fn clear(others: &BTreeSet<u32>) {
    loop {
        let left: Vec<u32> = memory::processes()
            .difference(others)
            .copied()
            .filter(|pid| !is_of_the_kernel(*pid))
            .collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            let pid = Pid::from_raw(pid.cast_signed());
            // It may have ended by itself, and be somebody else's child.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Threads of the kernel are children of kthreadd.
fn is_of_the_kernel(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // proc_pid_stat(5): the name in parentheses, the state, the parent.
    let parent = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(1));
    parent == Some("2")
}
