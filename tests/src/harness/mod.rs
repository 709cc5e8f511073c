//! What an integration test is written with.
//!
//! A test makes a [`Host`], bundles on it, and runs `bulkhead` as a user would: a command line in, output and an exit
//! code back. When the host goes out of scope, whatever the test left on the machine fails it.

mod artifacts;
mod bulkhead;
mod bundle;
mod collect;
mod console;
mod container;
mod containerd;
mod daemon;
mod descriptor;
mod docker;
mod engine;
mod host;
mod image;
mod leaks;
mod loop_device;
mod old_kernel;
mod podman;
mod poor_kvm;
pub mod processes;
mod rootfs;
mod seccomp_filter;
mod seclusion;
mod systemd;
mod web;

pub use artifacts::{
    NotBuilt, bulkhead as bulkhead_binary, check as check_artifacts, initramfs, kernel, make_root_image,
    program, vmm,
};
pub use bulkhead::{Invocation, Output, Running};
pub use bundle::{Bundle, default_config};
pub use console::{ConsoleSocket, ReceivedTerminal};
pub use container::Container;
pub use containerd::{
    Containerd, NETWORK, NETWORK_V6, RUNTIME as CONTAINERD_RUNTIME, program as containerd_program,
};
pub use descriptor::receive_descriptor;
pub use docker::{Docker, IMAGE as DOCKER_IMAGE};
pub use host::Host;
pub use image::Image;
pub use loop_device::Loop;
pub use podman::{IMAGE as PODMAN_IMAGE, Podman};
pub use systemd::Systemd;
pub use web::page;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

/// How long anything may take before a test is given up. Nothing that works comes near it, also on an emulated
/// machine that is busy.
pub const LIMIT: Duration = Duration::from_secs(180);

/// How often a test repeats what is to leave nothing: `BULKHEAD_SOAK` times if that is set, and else a few times.
///
/// # Panics
/// It is not a number.
#[must_use]
pub fn cycles() -> usize {
    const FEW: usize = 4;
    env::var("BULKHEAD_SOAK").map_or(FEW, |number| number.parse().expect("BULKHEAD_SOAK is a number"))
}

/// What a container engine is given for a runtime: `bulkhead`, unless `BULKHEAD_ENGINE_RUNTIME` names another program, to
/// see what the engine does with that.
fn engine_runtime(host: &Host) -> PathBuf {
    env::var_os("BULKHEAD_ENGINE_RUNTIME").map_or_else(|| host.runtime(), PathBuf::from)
}
