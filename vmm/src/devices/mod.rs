//! The devices that a microVM has.

pub mod virtio;
