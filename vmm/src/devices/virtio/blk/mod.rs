//! virtio-blk over images and block devices (virtio 1.2, section 5.2).
//!
//! A device has one queue and a thread of its own, since reads and writes block on the host. Whether a disk is read-only is a
//! feature bit; a write to one is answered with an error all the same.
//!
//! Images that are not raw are decoded here, in the jail, since who made them may be hostile; they are read-only.

mod device;
mod formats;
mod image;
mod request;
mod service;

pub use device::Block;
pub use formats::FormatError;
pub use image::ImageError;

#[cfg(test)]
mod tests;
