//! How the process makes itself small, before it looks at anything that the guest or its image could have shaped.
//!
//! Whoever starts it gives it a process namespace and a control group; the rest it does itself, whoever starts it: it
//! dies with its parent, leaves the host's mount, network, System V IPC and host name namespaces, makes its working
//! directory its root, and gives up its capabilities. Then each of its threads is confined to the system calls that its
//! kind needs. There is no way to run it without.

mod calls;
mod mounts;
mod privileges;

use std::io;

use caps::Capability;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;

pub use self::calls::Thread;
use crate::report::Reporter;

/// A step into the jail failed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The kernel refused a step.
    #[error("cannot {0}; the VMM is started as root, with all capabilities, on Linux 5.12 or later")]
    Step(&'static str, #[source] io::Error),
    /// The main thread has no list of system calls.
    #[error(transparent)]
    Confine(io::Error),
    /// Whoever was to read the report has gone.
    #[error("the process that started the VMM has ended")]
    ParentIsGone,
}

impl JailError {
    fn step(what: &'static str) -> impl FnOnce(Errno) -> JailError {
        move |errno| JailError::Step(what, errno.into())
    }
}

/// What a file server needs to do for the guest's processes what they may do: everything but
/// [`Capability::CAP_DAC_READ_SEARCH`], which would let it open files by handle and thereby leave its root.
const FILE_SERVING: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

/// Enters the jail. Must be called while the process has one thread.
///
/// With `serves_files` the root can be written to and the file-serving capabilities stay; later mounts of the host under
/// the working directory arrive in it. The reader of the report is the process that started this one.
pub fn enter(serves_files: bool, reporter: &Reporter) -> Result<(), JailError> {
    die_with_parent(reporter)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .map_err(JailError::step("leave the host's namespaces"))?;
    mounts::make_working_directory_the_root(serves_files)?;
    privileges::limit_resources()?;
    if serves_files {
        privileges::make_room_for_descriptors()?;
    }
    privileges::drop_capabilities(if serves_files { &FILE_SERVING } else { &[] })?;
    prctl::set_no_new_privs().map_err(JailError::step("give up gaining privileges"))?;
    prctl::set_dumpable(false).map_err(JailError::step("keep other processes from tracing this one"))
}

/// Has the kernel kill this process when the thread that started it ends. Had it ended before, nobody would be left to
/// read the report.
fn die_with_parent(reporter: &Reporter) -> Result<(), JailError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(JailError::step("tie its life to its parent's"))?;
    if reporter.has_lost_its_reader() {
        return Err(JailError::ParentIsGone);
    }
    Ok(())
}
