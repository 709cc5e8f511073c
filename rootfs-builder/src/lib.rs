//! Makes what the guest starts from: the agent, the directories it mounts on, and a console for process 1.
//!
//! The same agent gives the same bytes, whoever builds them and whenever: no time stamp, user id, inode number or
//! directory order of the build machine gets into the result.

pub mod agent;
pub mod image;
pub mod initramfs;
mod output;
pub mod tree;

#[cfg(test)]
mod testing;
