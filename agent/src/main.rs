//! bulkhead-agent: pid 1 of the guest. It makes containers as the host's runtime asks it to, over vsock.

mod apparmor;
mod boot;
mod container;
mod demand;
mod disks;
mod error;
mod failure;
mod memory;
mod network;
mod pod;
mod ports;
mod process;
mod processors;
mod reaper;
mod sandbox;
mod server;
mod slot;
mod stack;
mod storage;
mod streams;
mod syscalls;
mod volumes;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "--version") {
        println!("bulkhead-agent {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if std::process::id() != 1 {
        eprintln!("bulkhead-agent: this is the first program of a bulkhead guest and cannot run elsewhere");
        return ExitCode::FAILURE;
    }
    let result = boot::prepare()
        .map_err(|failure| failure.to_string())
        .and_then(|()| server::run());
    if let Err(text) = result {
        eprintln!("bulkhead-agent: {text}");
    }
    // The kernel panics when pid 1 ends, and the host shows the console's last lines.
    ExitCode::FAILURE
}
