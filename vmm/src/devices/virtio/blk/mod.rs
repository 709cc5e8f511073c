//! virtio-blk over images and block devices (virtio 1.2, section 5.2).
//!
//! A device has one queue and a thread of its own, since reads and writes block on the host. A device can be a
//! *reserved slot*: it has capacity 0 until an image is attached to it, then tells the driver of its new size by a
//! configuration interrupt. So a disk can be added to a running guest without hotplug.
//!
//! Whether a disk is read-only is a feature bit, settled when the driver probes the device. For a slot that is filled
//! later that is too early, so a slot never offers the bit: each write to a read-only image is answered with an
//! error, and whoever mounts the disk in the guest has to mount it read-only.

//!
//! Images that are not raw are decoded here, in the jail, since who made them may be hostile; they are read-only.

mod device;
mod formats;
mod image;
mod request;
mod service;

pub use device::{AttachError, Block, Slot};
pub use formats::FormatError;
pub use image::ImageError;

#[cfg(test)]
mod tests;
