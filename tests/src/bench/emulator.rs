//! The L1 that counts instructions.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::experiments::Measurement;
use super::plan::{Line, REPLY, Reply, Sample};
use super::profile::Profiler;
use super::suite::Suite;
use super::{Bench, BenchError, archive};
use crate::testbed::kernel::Kernel;
use crate::testbed::process::Process;

/// Without `-erms,-fsrm` every byte that `rep movsb` copies counts as an instruction. With XSAVE every guest finds that its
/// processor contradicts itself, and warns at length: the emulation does not tell KVM when a guest executes `xsetbv`.
const ARGUMENTS: &str = "-nodefaults -no-user-config -accel tcg,thread=single -icount shift=0,sleep=off -seed 1 \
    -rtc base=2026-01-01T00:00:00,clock=vm -smp 1 -cpu max,-erms,-fsrm,-xsave -nic none -display none \
    -monitor none -serial stdio -no-reboot";

/// Nothing but the last words goes to the console: what KVM has to say of a guest, it says not of every one.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet loglevel=1 nokaslr";

/// How many lines of the console are kept for an error.
const KEPT_LINES: usize = 30;

/// What came of the experiments, by their names.
#[derive(Default)]
pub struct Results {
    /// Every measurement.
    pub samples: Vec<(String, Sample)>,
    /// The logs that were wanted.
    pub logs: Vec<(String, Vec<Line>)>,
    /// Where the functions of L1's kernel are, as `/proc/kallsyms` has it, if there was a profiler.
    pub symbols: String,
}

/// Runs the experiments.
pub fn run(
    bench: &Bench,
    kernel: &Kernel,
    suite: Suite,
    measurements: &[Measurement],
    profiler: Option<&Profiler>,
) -> Result<Results, BenchError> {
    let folder = tempfile::tempdir().map_err(BenchError::file("a temporary folder"))?;
    let initramfs = folder.path().join("bench.cpio");
    archive::write(&initramfs, bench, kernel, suite, measurements, profiler.is_some())?;

    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(ARGUMENTS.split_whitespace())
        .args(["-m", &suite.host_memory_mib().to_string()])
        .arg("-kernel")
        .arg(kernel.image());
    command
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", KERNEL_COMMAND_LINE]);
    if let Some(Profiler { plugin, output }) = profiler {
        let plugin = format!("{},output={}", plugin.display(), output.display());
        command.args(["-plugin", &plugin]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut qemu = Process::spawn(&mut command, &[])?;
    let console = qemu.take_stdout().expect("piped");

    let expected: usize = measurements
        .iter()
        .map(|measurement| measurement.experiment.runs)
        .sum();
    let mut results = Results::default();
    let mut tail = Vec::new();
    let failed = |what: String, tail: &[String]| BenchError::L1 {
        what,
        console: tail.join("\n"),
    };
    for line in BufReader::new(console).lines() {
        let line = line.map_err(BenchError::file("L1's console"))?;
        let reply = line
            .find(REPLY)
            .and_then(|at| serde_json::from_str(&line[at + REPLY.len()..]).ok());
        match reply {
            Some(Reply::Sample(name, sample)) => {
                println!(
                    "[{}/{expected}] {name}: {:.2} ms",
                    results.samples.len() + 1,
                    sample.milliseconds
                );
                results.samples.push((name, sample));
            }
            Some(Reply::Log(name, lines)) => results.logs.push((name, lines)),
            Some(Reply::Symbols(lines)) => {
                results.symbols += &lines;
                results.symbols.push('\n');
            }
            Some(Reply::Again(name, why)) => println!("{name}: {why}; trying once more"),
            Some(Reply::Failed(name, why)) => return Err(failed(format!("{name}: {why}"), &tail)),
            Some(Reply::Done) => return Ok(results),
            None => {
                tail.push(line);
                tail.drain(..tail.len().saturating_sub(KEPT_LINES));
            }
        }
    }
    Err(failed("L1 ended before it was done".into(), &tail))
}
