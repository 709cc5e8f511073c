//! `containerd-shim-bulkhead-v2`: what containerd talks to. One process serves all containers of a sandbox.
//!
//! It carries nothing itself. Every container and every further process is a stand-in made by `bulkhead create` and
//! `bulkhead exec --detach`, whose standard streams are what containerd has named; the shim is told by the kernel how a stand-in
//! ended. So nothing is lost while it is busy, and the command line works on its containers.
//!
//! - `command_line`, `start`, `delete`, `info`: what containerd executes
//! - `server`, `task_service`, `sandbox_service`: what containerd calls
//! - `tasks`, `task`, `process`: what there is
//! - `standin`, `reaper`: the processes that stand in for it
//! - `stream_names`, `streams`, `logger`: where output goes
//! - `bundle`, `options`, `pod_config`, `pod_description`: what containerd says beside
//! - `rootfs`: the mounts below a container
//! - `privileges`: what the shim may do by itself
//! - `events`, `metrics`: what containerd is told

mod address;
mod bundle;
mod command_line;
mod context;
mod delete;
mod descriptors;
mod error;
mod events;
mod info;
mod logger;
mod metrics;
mod options;
mod pod_config;
mod pod_description;
mod privileges;
mod process;
mod reaper;
mod rootfs;
mod sandbox_service;
mod server;
mod standin;
mod start;
mod stream_names;
mod streams;
mod task;
mod task_service;
mod tasks;

use std::{
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError},
};

use command_line::{Action, CommandLine};

/// The name under which the program is the shim.
pub const NAME: &str = "containerd-shim-bulkhead-v2";

/// Does what containerd asks.
pub fn main() -> ExitCode {
    let done = CommandLine::parse(std::env::args_os().skip(1))
        .map_err(anyhow::Error::from)
        .and_then(|line| match line.action {
            Action::Version => info::print_version(),
            Action::Info => info::print(),
            Action::Start => start::execute(&line),
            Action::Delete => delete::execute(&line),
            Action::Serve => server::execute(&line),
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A panic leaves nothing half done under a lock, so the next one may go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
