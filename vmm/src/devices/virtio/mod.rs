//! Virtio devices (OASIS Virtual I/O Device specification 1.2).

pub mod device;

pub use device::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
