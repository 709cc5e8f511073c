//! Mapping the owners of files in a mount, which the kernel does by the mappings of a user namespace.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::oci::{IdMappings, IdRange};

/// Shows the files of a mount that is not in the tree yet by these mappings.
///
/// # Errors
/// The kernel's: `EINVAL` also when the file system does not support it, or a mapping makes no sense.
pub fn map_ids(mount: impl AsFd, mappings: &IdMappings) -> io::Result<()> {
    let namespace = user_namespace(mappings)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    super::mount_attributes::set(mount, &attributes, mappings.recursive)
}

/// A user namespace with these mappings, in which nothing runs.
fn user_namespace(mappings: &IdMappings) -> io::Result<OwnedFd> {
    let holder = Holder::start()?;
    let folder = format!("/proc/{}", holder.0.as_raw_nonzero());
    fs::write(format!("{folder}/uid_map"), lines(&mappings.users))?;
    fs::write(format!("{folder}/gid_map"), lines(&mappings.groups))?;
    Ok(File::open(format!("{folder}/ns/user"))?.into())
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.container, range.host, range.size);
        text
    })
}

/// A process that is there so that its namespace is.
struct Holder(Pid);

impl Holder {
    fn start() -> io::Result<Self> {
        // SAFETY: all fields of `clone_args` are integers, for which zero is valid.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = libc::CLONE_NEWUSER as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        // SAFETY: no CLONE_VM and no stack, so the child continues here on its own copy of memory, and makes one system
        // call.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
        match pid {
            0 => loop {
                // SAFETY: the call takes nothing.
                unsafe { libc::pause() };
            },
            1.. => i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .map(Self)
                .ok_or_else(|| io::ErrorKind::InvalidData.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It cannot have ended by itself, nor been collected by anybody else.
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}
