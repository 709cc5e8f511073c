//! What runs beside what is measured.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::launch::{InBackground, Prepared};
use super::measure::{TRIES, is_late, wait, within};
use super::processes;
use super::rest::{LOOK, rest};
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
                    processes::kill(processes::busiest(LOOK)?);
                    self.killed += 1;
                    continue;
                }
                result => result?,
            }
            if self.started.len() - self.killed >= running.count {
                return Ok(());
            }
            let others = processes::all();
            match run_beside(running, experiment.limit(), &others) {
                Err(error) if is_late(&error) && tries > 1 => {
                    late(&error);
                    tries -= 1;
                    processes::clear(&others);
                }
                result => {
                    self.started.push(result?);
                    tries = TRIES;
                }
            }
        }
    }
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
