//! Virtio devices (OASIS Virtual I/O Device specification 1.2).

pub mod balloon;
pub mod blk;
mod buffers;
pub mod device;
pub mod fs;
pub mod mem;
pub mod mmio;
pub mod net;
pub mod rng;
pub mod vsock;
mod worker;

#[cfg(test)]
pub(crate) mod mock_driver;

pub use balloon::Balloon;
pub use device::{ActivateError, Activation, ActiveQueue, Interrupt, VirtioDevice};
pub use mem::Mem;
pub use mmio::{MmioTransport, Wiring};
pub use rng::Rng;
