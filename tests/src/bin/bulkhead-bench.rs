//! `make bench`: measures, and writes docs/performance.md and docs/performance.json.

use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_tests::bench::{Bench, BenchError};
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
    /// Measure only what has this in its name, and write no documents
    #[arg(long)]
    only: Option<String>,
    /// Measure the most important figures, and fail if one is worse than performance.json has it
    #[arg(long, conflicts_with = "only")]
    check: bool,
    /// Measure only what the picture is drawn from, and write start.svg
    #[arg(long, conflicts_with_all = ["only", "check"])]
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
    match cli.only {
        Some(only) => print!("{}", bench.measure(&only)?),
        None if cli.check => print!("{}", bench.check()?),
        None if cli.picture => bench.draw()?,
        None => bench.record()?,
    }
    Ok(())
}
