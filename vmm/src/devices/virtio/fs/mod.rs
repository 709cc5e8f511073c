//! virtio-fs: the guest's view of a folder of the host (virtio 1.2, section 5.11).
//!
//! The device speaks FUSE. `fuse-backend-rs` reads the requests from guest memory and writes the replies;
//! `passthrough` does what they ask for with the host's files; `service` stands between them and the queue, refuses
//! what cannot be a request, and answers the few operations that the crate does not know. One thread serves all queues.
//!
//! # What keeps the guest inside
//! The shared folder is the VMM's root. A name from the guest is one path component, never `.` or `..`, and is opened
//! relative to its parent's descriptor without following a symbolic link: links are resolved by the guest's kernel, in
//! the guest's tree. Only regular files and folders are ever opened for more than their attributes. To open a file that
//! is known by an `O_PATH` descriptor takes `/proc/self/fd`: of that the device has a detached copy which ends at this
//! very folder, see [`HostView`].
//!
//! # Permissions
//! The guest's kernel decides them (`default_permissions`). The device makes new files as the user of the request, so
//! that their owner is right, but keeps its capabilities meanwhile: the host knows nothing of the user's supplementary
//! groups. What it needs, the jail leaves it: `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_MKNOD`,
//! `CAP_SETFCAP`, `CAP_SETGID` and `CAP_SETUID`. So attributes named `trusted.*` cannot be set: they need
//! `CAP_SYS_ADMIN`.
//!
//! # Mounts
//! What the host mounts below the folder, now or later, is part of it, and announced to the guest as a mount of its own.
//! So inode numbers of different file systems do not meet, and unmounting it in the guest gives back every descriptor
//! that the device holds in it, without which the host could not let go of it.
//!
//! Linux does not carry two properties of the file system over to an announced mount: there, access control lists are
//! refused (`EOPNOTSUPP`), and each write asks for the attribute `security.capability` first.
//!
//! # Caching
//! Names and attributes are valid for a second, so that the host's changes are seen within one. The guest keeps the
//! pages of a file from one opening to the next if the file has not changed in between, and writes through.
//!
//! # Descriptors
//! The device holds one descriptor for each inode that the guest's kernel remembers, and one for each open file. The
//! jail raises the limit of open files as far as it goes (the default hard limit is 524288 under systemd). Beyond it
//! the guest sees `EMFILE`. The alternative, file handles, needs `CAP_DAC_READ_SEARCH`, which opens every file of the
//! host.
//!
//! # Locks
//! `flock` and POSIX locks are between the guest's processes only; the host does not see them.

mod device;
mod host_view;
mod passthrough;
mod request;
mod service;

pub use device::Filesystem;
pub use host_view::{HostView, PrepareError};

#[cfg(test)]
mod tests;
