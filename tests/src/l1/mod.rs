//! What runs inside L1, the emulated host: its pid 1 and the agent that runs commands for the host.
//!
//! L1's state is saved once, when [`boot`] has loaded the modules and waits for its first connection. Every later L1
//! continues from there: it is told what it needs by [`crate::testbed::channel::Setup`], mounts the host's files, and
//! starts the agent.

pub mod agent;
pub mod boot;
pub mod files;
pub(crate) mod modules;
pub mod pty;
