//! Virtio devices (OASIS Virtual I/O Device specification 1.2).

pub mod device;
pub mod mmio;
pub mod rng;

pub use device::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
pub use mmio::{MmioTransport, Wiring};
pub use rng::Rng;
