//! The devices that a microVM has.

pub mod mmio;
pub mod ports;
pub mod reset;
pub mod serial;
pub mod virtio;
