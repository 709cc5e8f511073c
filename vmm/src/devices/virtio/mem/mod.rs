//! The memory device (virtio 1.3, section 5.15), by which a guest gets more memory while it runs: a region of addresses
//! in which its driver plugs blocks, as many as the host wants it to have.
//!
//! - `request`: what a driver asks for, and what it is answered
//! - `region`: which blocks are plugged, and the host's memory behind them
//! - `device`: the device as its transport sees it, and the host's way to change what the guest is to have
//! - `handler`: its work on the event loop

mod device;
mod handler;
mod region;
mod request;

pub use device::{Mem, Target};
pub use region::{BLOCK_SIZE, Expose, Region};

#[cfg(test)]
mod tests;
