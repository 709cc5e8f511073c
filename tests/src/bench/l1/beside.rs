//! What runs beside what is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use std::{fs, io, thread};

use super::launch::{InBackground, Prepared};
use super::measure::{LOOK, TRIES, clear, is_late, kill_now, rest, wait, within};
use super::memory;
use crate::bench::plan::{Experiment, Running};

/// What runs beside what is measured.
#[derive(Default)]
pub struct Beside {
    started: Vec<InBackground>,
    /// How many of these had to be killed.
    killed: usize,
}

impl Beside {
    /// Has all that is wanted run, and at rest. What spins is killed, and another one started.
    pub fn complete(&mut self, experiment: &Experiment, late: &dyn Fn(&io::Error)) -> io::Result<()> {
        let Some(running) = &experiment.beside else {
            return Ok(());
        };
        let mut tries = TRIES;
        loop {
            match rest() {
                Err(error) if is_late(&error) && self.killed < self.started.len() => {
                    late(&error);
                    kill_now(busiest()?);
                    self.killed += 1;
                    continue;
                }
                result => result?,
            }
            if self.started.len() - self.killed >= running.count {
                return Ok(());
            }
            let others = memory::processes();
            match run_beside(running, experiment.limit(), &others) {
                Err(error) if is_late(&error) && tries > 1 => {
                    late(&error);
                    tries -= 1;
                    clear(&others);
                }
                result => {
                    self.started.push(result?);
                    tries = TRIES;
                }
            }
        }
    }
}

/// The process that now takes most of the processor.
fn busiest() -> io::Result<u32> {
    let taken = || -> BTreeMap<u32, u64> {
        let pids = memory::processes().into_iter();
        pids.filter_map(|pid| Some((pid, ticks(pid)?))).collect()
    };
    let before = taken();
    thread::sleep(LOOK);
    let more = |(pid, ticks): (u32, u64)| Some((ticks.checked_sub(*before.get(&pid)?)?, pid));
    let busiest = taken().into_iter().filter_map(more).max();
    busiest
        .map(|(_, pid)| pid)
        .ok_or_else(|| io::Error::other("no process runs"))
}

/// How long a process has run, in ticks (proc_pid_stat(5)); None if it has gone.
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let times = rest.split_whitespace().skip(11).take(2);
    Some(times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum())
}

/// Starts what is to run beside what is measured. It goes on until everything is killed.
fn run_beside(running: &Running, limit: Duration, others: &BTreeSet<u32>) -> io::Result<InBackground> {
    let prepared = Prepared::new(&running.start)?;
    within(limit, others, || {
        let mut launched = prepared.start()?;
        wait(&mut launched, &running.until)?;
        Ok(launched.into_background())
    })
}
