//! `make bench`, `bench-io`, `bench-growth` and `profile`: measures, and writes docs/performance.md and the figures beside it.

use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_tests::bench::{Bench, BenchError, Suite};
use clap::Parser;

/// Measures bulkhead beside QEMU, runc and crun in virtual time.
#[derive(Parser)]
#[command(name = "bulkhead-bench")]
struct Cli {
    /// Folder with the release binaries
    #[arg(long, default_value = "target/x86_64-unknown-linux-gnu/release")]
    binaries: PathBuf,
    /// The guest's kernel
    #[arg(long, default_value = "target/guest/vmlinux")]
    kernel: PathBuf,
    /// The guest's initramfs
    #[arg(long, default_value = "target/guest/initramfs.cpio")]
    initramfs: PathBuf,
    /// Folder of performance.md
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Suite::Start)]
    suite: Suite,
    /// Measure only what has this in its name, and write no documents
    #[arg(long)]
    only: Option<String>,
    /// Measure the most important figures, and fail if one is worse than performance.json has it
    #[arg(long, conflicts_with_all = ["only", "suite"])]
    check: bool,
    /// Count the instructions of a start by function with this plugin of QEMU's, bulkhead-profiler, and write the tables of it
    #[arg(long, requires = "system_map", conflicts_with_all = ["only", "check", "suite"])]
    profile: Option<PathBuf>,
    /// The symbols of the guest's kernel
    #[arg(long)]
    system_map: Option<PathBuf>,
    /// Measure only what the picture is drawn from, and write start.svg
    #[arg(long, conflicts_with_all = ["only", "check", "suite"])]
    picture: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), BenchError> {
    let bench = Bench {
        binaries: cli.binaries,
        kernel: cli.kernel,
        initramfs: cli.initramfs,
        docs: cli.docs,
    };
    if let Some((plugin, system_map)) = cli.profile.zip(cli.system_map) {
        return bench.profile(&plugin, &system_map);
    }
    match cli.only {
        Some(only) => print!("{}", bench.measure(cli.suite, &only)?),
        None if cli.check => print!("{}", bench.check()?),
        None if cli.picture => bench.draw()?,
        None => bench.record(cli.suite)?,
    }
    Ok(())
}
