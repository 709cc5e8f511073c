//! The device without a guest: the tests are the guest's kernel, and speak FUSE.

mod client;
mod confinement;
mod device;
mod files;
mod folders;
mod fuzz;
mod mounts;
mod users;
