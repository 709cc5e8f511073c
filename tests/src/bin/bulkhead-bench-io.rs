//! What the bench has containers and guests do with files, disks and connections. It says itself how long that took.

use std::process::ExitCode;

use bulkhead_tests::bench::io::Operation;
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
