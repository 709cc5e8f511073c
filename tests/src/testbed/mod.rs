//! The testbed: an emulated host ("L1") with a working KVM, for machines whose own KVM cannot run stock guests.
//!
//! QEMU's TCG emulates an AMD CPU with SVM; a stock Debian kernel boots in it, loads `kvm-amd`, and microVMs boot in
//! that. L1 has this machine's own root file system, over virtio-fs and under an overlay on tmpfs, so whatever is
//! installed or built here is there. The work tree is shared a second time, read-write. Booted once, L1's state is
//! saved; every later L1 continues from it in under a second.

pub mod cache;
pub mod channel;
pub mod client;
mod counter;
mod error;
pub(crate) mod initramfs;
pub mod kernel;
mod l1;
mod log;
pub mod named;
pub mod place;
pub(crate) mod process;
mod qemu;
mod qmp;
mod saved;
mod share;
pub mod terminal;
pub(crate) mod tool;

pub use error::Error;
pub use l1::{L1, Options};
