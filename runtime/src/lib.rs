//! The host side of bulkhead: from a bundle to a container that runs in a virtual machine of its own.

pub mod cli;
mod clock;
pub mod config;
pub mod container;
pub mod logging;
pub mod metrics;
pub mod oci;
pub mod program;
mod readiness;
pub mod sandbox;
pub mod shim;
mod signals;
