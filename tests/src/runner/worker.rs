//! One place at which one test runs at a time.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Plan, Test, flags, host};
use crate::testbed::channel::Run;
use crate::testbed::client::{self, Ended, Input};
use crate::testbed::place::Place;
use crate::testbed::{Error, L1};

/// How often one test may lose its L1, and one worker fail to start one, before that is called a failure.
const TRIES: usize = 2;

/// What became of a test.
pub struct Outcome {
    /// The result.
    pub verdict: Verdict,
    /// What it took.
    pub took: Duration,
    /// What it printed.
    pub output: Vec<u8>,
}

/// The result of a test.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it promises.
    Passed,
    /// It did not: why.
    Failed(String),
}

/// A worker. It lives on one thread, as an L1 ends with the thread that started it.
pub struct Worker<'a> {
    number: usize,
    plan: &'a Plan,
    l1: Option<L1>,
}

impl<'a> Worker<'a> {
    /// Worker `number` of a plan.
    pub fn new(number: usize, plan: &'a Plan) -> Self {
        Self {
            number,
            plan,
            l1: None,
        }
    }

    /// Runs one test to its end.
    ///
    /// # Errors
    /// The testbed does not come up.
    pub fn run(&mut self, test: &Test) -> Result<Outcome, Error> {
        for _ in 0..TRIES {
            let began = Instant::now();
            let mut output = Vec::new();
            let verdict = match self.plan.place {
                Place::Host => self.on_host(test, &mut output),
                Place::L1 { .. } => self.in_l1(test, &mut output),
            };
            match verdict {
                Ok(verdict) => {
                    return Ok(Outcome {
                        verdict,
                        took: began.elapsed(),
                        output,
                    });
                }
                Err(Error::Lost(error)) => self.report_loss(test, &error),
                Err(error) => return Err(error),
            }
        }
        let why = format!("L1 was lost {TRIES} times during this test");
        Ok(Outcome {
            verdict: Verdict::Failed(why),
            took: Duration::ZERO,
            output: Vec::new(),
        })
    }

    fn on_host(&self, test: &Test, output: &mut Vec<u8>) -> Result<Verdict, Error> {
        let mut command = Command::new(&test.binary);
        command.args(arguments(test));
        let ended = host::run(&mut command, self.plan.limit, output).map_err(Error::file(&test.binary))?;
        Ok(match ended {
            host::Ended::Exit(status) => verdict(status.success(), &status.to_string(), output),
            host::Ended::TimedOut => self.too_long(),
        })
    }

    fn in_l1(&mut self, test: &Test, output: &mut Vec<u8>) -> Result<Verdict, Error> {
        let run = Run {
            args: [test.binary.to_string_lossy().into_owned()]
                .into_iter()
                .chain(arguments(test))
                .collect(),
            env: client::inherited_environment(),
            dir: Some(self.plan.l1.work_tree.to_string_lossy().into_owned()),
            ..Run::default()
        };
        let l1 = match &self.l1 {
            Some(l1) => l1,
            None => self.l1.insert(start(self.number, self.plan)?),
        };
        let mut collect = |_, data: &[u8]| output.extend_from_slice(data);
        let ended = match l1
            .endpoint()
            .run(run, Input::None, &mut collect, Some(self.plan.limit))
        {
            Ok(ended) => ended,
            // The binary itself does not start: the test's failure.
            Err(Error::Command(why)) => return Ok(Verdict::Failed(why)),
            Err(error) => return Err(error),
        };
        Ok(match ended {
            Ended::Exit(code) => {
                let verdict = verdict(code == 0, &format!("exit code {code}"), output);
                match flags::impossible(output) {
                    Some(flags) if verdict != Verdict::Passed => return Err(processor_fault(flags)),
                    _ => verdict,
                }
            }
            Ended::TimedOut => {
                // Whatever left the killed session is still there: the next test starts afresh.
                self.l1 = None;
                self.too_long()
            }
        })
    }

    fn too_long(&self) -> Verdict {
        Verdict::Failed(format!("killed after {:?}", self.plan.limit))
    }

    fn report_loss(&mut self, test: &Test, error: &io::Error) {
        let console = self.l1.take().map(|l1| l1.console()).unwrap_or_default();
        println!(
            "testbed: L1 {} was lost during {test} ({error}); its console ended:\n{console}",
            self.number
        );
        println!("testbed: starting a new one for another try; this is not held against the test");
    }
}

fn processor_fault(flags: u32) -> Error {
    Error::Lost(io::Error::other(format!(
        "its processor went wrong: a guest's kernel crashed with EFLAGS {flags:08x}, which no processor can have"
    )))
}

fn start(number: usize, plan: &Plan) -> Result<L1, Error> {
    L1::start(&plan.l1).or_else(|error| {
        println!("testbed: L1 {number}: {error}\ntestbed: trying once more");
        L1::start(&plan.l1)
    })
}

fn arguments(test: &Test) -> [String; 3] {
    ["--exact".into(), test.name.clone(), "--nocapture".into()]
}

/// libtest calls a run of no tests a success; here it is none.
fn verdict(success: bool, ended: &str, output: &[u8]) -> Verdict {
    let ran = String::from_utf8_lossy(output).contains("\nrunning 1 test\n");
    match (success, ran) {
        (true, true) => Verdict::Passed,
        (true, false) => Verdict::Failed("the binary did not run this test".into()),
        (false, _) => Verdict::Failed(ended.to_owned()),
    }
}
