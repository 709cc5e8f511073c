//! The stopwatch.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::Pid;

use super::beside::Beside;
use super::launch::{Launched, Prepared, too_long};
use super::{log, marks, memory};
use crate::bench::plan::{Experiment, Line, Reply, Sample, Until};

/// How often something is started that takes too long.
pub const TRIES: usize = 3;

/// How often and for how long the processor is looked at, to see whether it idles.
const LOOKS: usize = 20;
pub const LOOK: Duration = Duration::from_millis(40);

/// Measures an experiment as often as it wants, after one run that is not counted, and replies as it goes.
pub fn all_runs(experiment: &Experiment, reply: &dyn Fn(&Reply)) {
    let nobody = memory::processes();
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
        let others = memory::processes();
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

/// Lets the kernel do what the run before has left to it, and has every run begin at the same point between two ticks of
/// its timer.
///
/// # Errors
/// As [`rest`].
fn settle() -> io::Result<()> {
    loop {
        rest()?;
        if idles_during(sleep_until_the_next_second_but_one)? {
            return Ok(());
        }
    }
}

/// Waits until the processor idles.
///
/// # Errors
/// `TimedOut` if something does not come to rest.
pub fn rest() -> io::Result<()> {
    for _ in 0..LOOKS {
        let rests = idles_during(|| {
            thread::sleep(LOOK);
            Ok(())
        })?;
        if rests {
            return Ok(());
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "something does not come to rest",
    ))
}

/// Whether the processor idles for at least half of the time.
fn idles_during(wait: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let (start, before) = (Instant::now(), idle()?);
    wait()?;
    Ok(idle()? - before > start.elapsed() / 2)
}

/// How long the processor has idled since the start (proc_uptime(5)).
fn idle() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let idle = text
        .split_whitespace()
        .nth(1)
        .and_then(|seconds| seconds.parse().ok());
    idle.map(Duration::from_secs_f64)
        .ok_or_else(|| io::Error::other(format!("/proc/uptime: {text}")))
}

fn sleep_until_the_next_second_but_one() -> io::Result<()> {
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
                all_but(others).into_iter().for_each(kill_now);
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

/// Kills everybody but `others`, and returns when they have gone.
pub fn clear(others: &BTreeSet<u32>) {
    loop {
        let left = all_but(others);
        if left.is_empty() {
            return;
        }
        for pid in left {
            kill_now(pid);
            // It may be somebody else's child.
            let _ = waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn all_but(others: &BTreeSet<u32>) -> Vec<u32> {
    memory::processes()
        .difference(others)
        .copied()
        .filter(|pid| !is_of_the_kernel(*pid))
        .collect()
}

pub fn kill_now(pid: u32) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
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
