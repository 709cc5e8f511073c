//! The program under its names.

use std::{env, ffi::CString, path::Path, process::ExitCode};

use crate::{cli, shim};

/// Does what the program was started for: under the shim's name it is containerd's shim, else the command line.
pub fn main() -> ExitCode {
    let program = env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    // Executed by way of /proc, it would be listed as "exe".
    if let Ok(name) = CString::new(name.as_encoded_bytes()) {
        let _ = rustix::thread::set_name(&name);
    }
    if name == shim::NAME {
        shim::main()
    } else {
        cli::main()
    }
}
