//! What the bench inside L1 is told to do, and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the plan is in L1's initramfs.
pub const FILE: &str = "/plan.json";

/// Where bulkhead-vmm is in L1's initramfs.
pub const VMM: &str = "/usr/bin/bulkhead-vmm";

/// What begins a line on L1's console that holds a [`Reply`].
pub const REPLY: &str = "bench: ";

/// Everything to measure, in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Commands that make what the experiments need, run before the first.
    pub prepare: Vec<Vec<String>>,
    /// One after the other.
    pub experiments: Vec<Experiment>,
    /// Whether to tell where the functions of L1's kernel are, at the end.
    pub symbols: bool,
}

/// One thing to measure several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experiment {
    /// Unique.
    pub name: String,
    /// What runs from before the first time until after the last.
    pub beside: Option<Running>,
    /// What is started.
    pub start: Start,
    /// When the clock stops.
    pub until: Until,
    /// How often it is measured, after one time that is not.
    pub runs: usize,
    /// What one run may take, in milliseconds of virtual time. For a guest that makes no progress a thousand cost the emulator some
    /// minutes.
    pub limit_milliseconds: u64,
    /// The file to which what is started logs in JSON, if the lines of the last time are wanted.
    #[serde(default)]
    pub log: Option<String>,
}

impl Experiment {
    /// What one run may take.
    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_milliseconds)
    }
}

/// What runs beside what is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What is started.
    pub start: Start,
    /// When the next one may be.
    pub until: Until,
    /// How many.
    pub count: usize,
}

/// What is started. The clock starts right before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A command; `{run}` in an argument becomes a number that no other run has.
    Command {
        /// Program and arguments.
        args: Vec<String>,
    },
    /// A task, as containerd has a shim start it: the shim's own start, `Create` and `Start`.
    Task {
        /// The shim's program.
        shim: String,
        /// The bundle.
        bundle: String,
        /// The runtime's configuration file, if the shim is to be told.
        config: Option<String>,
    },
    /// bulkhead-vmm by itself, without a runtime around it.
    Vmm {
        /// The guest's kernel.
        kernel: String,
        /// The guest's initramfs.
        initramfs: Option<String>,
        /// The guest's command line.
        command_line: String,
        /// The guest's memory, MiB.
        memory_mib: u32,
        /// The file behind a disk.
        disk: Option<String>,
    },
}

/// When the clock stops. What is still running then is killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// What was started has ended, with exit code 0.
    Exit,
    /// It printed this, or its guest did on the console.
    Printed(String),
    /// The agent in its guest dialled the host.
    AgentDialled,
    /// The shim has answered that the task runs.
    TaskRuns,
    /// It printed `took N`, N being hexadecimal nanoseconds by its own clock. These count.
    TookPrinted,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// From the start until the clock stopped, milliseconds of virtual time.
    pub milliseconds: f64,
    /// The memory, at that moment, of all that has been started; not of what is [beside](Experiment::beside) it, and not for
    /// [`Until::Exit`].
    pub memory: Option<Memory>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When it was written, in milliseconds since the start.
    pub milliseconds: f64,
    /// What it says.
    pub message: String,
    /// The stage that it says to be done, and the milliseconds which that took.
    pub stage: Option<(String, f64)>,
}

/// Memory of processes, KiB. What is mapped by several counts in parts (PSS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All but the guest's RAM.
    pub host: u64,
    /// The part of `host` that is no file's: what a further one of the same costs.
    pub anonymous: u64,
    /// The guest's RAM that was touched.
    pub guest: u64,
    /// The part of `host` that is a shim's.
    pub shim: u64,
}

/// A line of L1's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A measurement of the experiment of this name.
    Sample(String, Sample),
    /// The log of the last run of the experiment of this name.
    Log(String, Vec<Line>),
    /// A run of the experiment of this name took too long, and is made once more: what was waited for.
    Again(String, String),
    /// Lines of L1's `/proc/kallsyms`.
    Symbols(String),
    /// The experiment of this name did not work: why.
    Failed(String, String),
    /// Everything was measured.
    Done,
}
