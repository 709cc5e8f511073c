//! What is measured.
//!
//! - `start`: how long it takes until something runs, and the memory that takes
//! - `io`: what input and output cost
//! - `growth`: how costs grow
//! - `commands`: what is started
//! - `bundles`: what containers are run from

mod bundles;
mod commands;
pub mod growth;
pub mod io;
pub mod start;

pub use self::bundles::{Bundle, ROOT};
use super::plan::{Experiment, Running, Start, Until};
use super::unit::Unit;

/// Memory of every guest, MiB.
pub const GUEST_MEMORY_MIB: u32 = 128;

/// Where the archive has things.
pub mod paths {
    /// The guest that only prints.
    pub const FLOOR: &str = "/guest/floor";
    /// The guest that exits to the VMM and prints how long that took.
    pub const EXITS: &str = "/guest/exits";
    /// The guest's kernel.
    pub const KERNEL: &str = "/guest/vmlinux";
    /// The guest's initramfs.
    pub const INITRAMFS: &str = "/guest/initramfs.cpio";
    /// The same with a program that prints, [`GREETER`].
    pub const INITRAMFS_WITH_GREETER: &str = "/guest/initramfs-with-greeter.cpio";
    /// That program's name in the guest.
    pub const GREETER: &str = "/greeter";
    /// The same with the program that measures input and output, [`IO_IN_GUEST`].
    pub const INITRAMFS_WITH_IO: &str = "/guest/initramfs-with-io.cpio";
    /// That program's name in the guest.
    pub const IO_IN_GUEST: &str = "/bulkhead-bench-io";
    /// The same program in L1.
    pub const IO: &str = "/usr/bin/bulkhead-bench-io";
    /// And in containers.
    pub const IO_IN_CONTAINER: &str = "/bin/bulkhead-bench-io";
    /// iproute2's `ip`: busybox's shell takes busybox's own by that name.
    pub const IP: &str = "/opt/ip";
    /// bulkhead's configuration.
    pub const CONFIG: &str = "/guest/config.toml";
    /// A bundle that runs `true`.
    pub const TRUE: &str = "/bundle/true";
    /// A bundle that says `up` and stays.
    pub const STAYS: &str = "/bundle/stays";
    /// The same for the sandbox of a pod.
    pub const POD: &str = "/bundle/pod";
    /// Where bulkhead logs, when it does.
    pub const LOG: &str = "/run/bulkhead.log";
    /// bulkhead's shim.
    pub const SHIM: &str = "/usr/bin/containerd-shim-bulkhead-v2";
    /// runc's.
    pub const RUNC_SHIM: &str = "/usr/bin/containerd-shim-runc-v2";
}

/// What a bundle that stays prints.
pub const UP: &str = "container is up";

/// Who is measured.
pub mod subjects {
    /// The product.
    pub const BULKHEAD: &str = "bulkhead";
    /// runc, and its shim.
    pub const RUNC: &str = "runc";
    /// crun.
    pub const CRUN: &str = "crun";
    /// QEMU as a VMM.
    pub const QEMU: &str = "QEMU microvm";
    /// The host without any of them.
    pub const LINUX: &str = "Linux";
}

/// What a row of the report is about.
pub mod rows {
    /// What starting any process takes.
    pub const PROCESS: &str = "fork and exec of a static `true`";
    /// From the VMM's start until a guest that only prints has printed.
    pub const FLOOR: &str = "VMM floor";
    /// One exit to user space.
    pub const EXIT: &str = "one exit to user space";
    /// From the VMM's start until the first program of the guest has printed.
    pub const INIT: &str = "process start to init running";
    /// From the VMM's start until the agent is ready.
    pub const READY: &str = "process start to agent ready";
    /// A whole container.
    pub const RUN: &str = "`run` of `true`, exec to exit";
    /// The same with a log, which makes it longer.
    pub const LOGGED: &str = "`run` of `true`, with a log";
    /// Until a container's first output.
    pub const OUTPUT: &str = "`run`, exec to the container's first output";
    /// A further program in a container that runs.
    pub const EXEC: &str = "`exec` of `true` in a running container, exec to exit";
    /// A task of containerd's.
    pub const TASK: &str = "containerd's Task.Create and Task.Start";
    /// The tenth pod of ten.
    pub const POD: &str = "an idle pod by containerd's shim, the 10th of 10";
}

/// Something to measure, and what its figures are called.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// How it is measured.
    pub experiment: Experiment,
    /// Commands that make what it needs, before everything.
    pub prepare: Vec<Vec<String>>,
    /// What the time is shown in.
    pub unit: Unit,
    /// Of how many of what is shown it is the time.
    pub count: u32,
    /// What the memory at that moment is of; None if it is not shown.
    pub memory: Option<String>,
    /// Whether it is among those that `--check` measures.
    pub is_checked: bool,
}

impl Measurement {
    /// By default measured five times, and shown in milliseconds.
    fn new(row: &str, subject: &str, start: Start, until: Until) -> Self {
        let experiment = Experiment {
            name: format!("{row}|{subject}"),
            beside: None,
            start,
            until,
            runs: 5,
            limit_milliseconds: 400,
            log: None,
        };
        Self {
            experiment,
            prepare: Vec::new(),
            unit: Unit::Milliseconds,
            count: 1,
            memory: None,
            is_checked: false,
        }
    }

    /// Needs what these commands make, words being separated by spaces. Others may need the same.
    fn after(mut self, commands: &[impl AsRef<str>]) -> Self {
        let words = |command: &str| command.split(' ').map(str::to_owned).collect();
        self.prepare
            .extend(commands.iter().map(|command| words(command.as_ref())));
        self
    }

    fn beside(mut self, running: Running) -> Self {
        self.experiment.beside = Some(running);
        self
    }

    fn log(mut self, path: &str) -> Self {
        self.experiment.log = Some(path.to_owned());
        self
    }

    fn runs(mut self, runs: usize) -> Self {
        self.experiment.runs = runs;
        self
    }

    fn limit(mut self, milliseconds: u64) -> Self {
        self.experiment.limit_milliseconds = milliseconds;
        self
    }

    fn memory(mut self, of: impl Into<String>) -> Self {
        self.memory = Some(of.into());
        self
    }

    /// What takes the time is done so many times; one of them is shown, in microseconds.
    fn each_of(mut self, count: u32) -> Self {
        self.count = count;
        self.unit = Unit::Microseconds;
        self
    }

    fn checked(mut self) -> Self {
        self.is_checked = self.subject() == subjects::BULKHEAD;
        self
    }

    /// What is measured.
    pub fn row(&self) -> &str {
        self.split().0
    }

    /// Of whom.
    pub fn subject(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        self.experiment.name.split_once('|').expect("row|subject")
    }
}
