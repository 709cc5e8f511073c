//! `bulkhead`: an OCI container runtime that gives every sandbox its own virtual machine; under another name, containerd's shim.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_runtime::program::main()
}
