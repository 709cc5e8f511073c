//! `bulkhead`: an OCI container runtime that gives every sandbox its own virtual machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_runtime::cli::main()
}
