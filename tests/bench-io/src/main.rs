//! Does one thing with files, disks or connections, and says how long that took.

use std::process::ExitCode;

use bulkhead_bench_io::Operation;
use clap::Parser;

fn main() -> ExitCode {
    match Operation::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-bench-io: {error}");
            ExitCode::FAILURE
        }
    }
}
