//! virtio-net over a tap (virtio 1.2, section 5.1).
//!
//! The device has one queue in each direction and runs on the event loop: a tap never blocks, so a thread of its own
//! would only add wake-ups. Frames go straight between the tap and guest memory, behind the header in which both speak
//! of checksums and segmentation, so that TCP moves up to 64 KiB at a time and neither side computes a checksum.
//!
//! - `device`: what the transport sees.
//! - `handler`: the event loop's side; decides when the rings and the tap are looked at, and when the driver is told.
//! - `receive`, `transmit`: the two rings.
//! - `frame`: descriptor chains to pieces of guest memory.
//! - `tap`: moves frames between those and the host.
//!
//! # Back-pressure
//!
//! When the guest has no buffers, the tap is not watched: its queue in the host's kernel fills and drops. When the tap
//! takes no frame, the guest's frames stay in its ring. Nothing is queued here.

mod device;
mod frame;
mod handler;
mod mac;
mod receive;
mod tap;
mod transmit;

#[cfg(test)]
mod tests;

pub use device::{Net, NetError};
pub use mac::{MacAddress, MacError};
