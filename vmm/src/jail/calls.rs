//! The system calls that a thread may make: `vmm/seccomp/lists.toml` says which, and the build makes filters of it.

use std::io;
use std::ptr;

use libc::sock_filter;
use nix::errno::Errno;

mod filters {
    use libc::sock_filter;

    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

/// The kinds of threads that the VMM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// The first one: makes the microVM, and then runs the event loop.
    Main,
    /// A virtual processor's.
    Vcpu,
    /// A disk's.
    Block,
    /// The shared folder's.
    Filesystem,
}

impl Thread {
    /// Has the kernel kill the process (`SIGSYS`) when this thread, or one that it starts, makes a system call that is not
    /// on the list of its kind. It cannot be undone; a thread that does it again is confined to what both lists have.
    /// The process must have given up gaining privileges before.
    ///
    /// # Errors
    /// The kernel takes no filter: the thread must not go on.
    pub fn confine(self) -> io::Result<()> {
        let (name, filter): (_, &[sock_filter]) = match self {
            Thread::Main => ("main", &filters::MAIN),
            Thread::Vcpu => ("vcpu", &filters::VCPU),
            Thread::Block => ("virtio-blk", &filters::VIRTIO_BLK),
            Thread::Filesystem => ("virtio-fs", &filters::VIRTIO_FS),
        };
        install(filter).map_err(|errno| io::Error::other(NotConfined(name, errno)))
    }
}

fn install(filter: &[sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let flags: libc::c_ulong = 0;
    // SAFETY: the kernel copies `len` instructions from `filter`, and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            ptr::from_ref(&program),
        )
    };
    Errno::result(result).map(drop)
}

/// The kernel took no filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot confine the thread {0} to its system calls: {1}; it takes a kernel with CONFIG_SECCOMP_FILTER"
)]
struct NotConfined(&'static str, Errno);

#[cfg(test)]
mod tests;
