//! Limits and capabilities.

use std::collections::HashSet;
use std::io;

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::fcntl_dupfd_cloexec;

use super::JailError;

/// Raises the limits that a file server runs into as far as they go; and leaves no core dumps, which would hold the
/// guest's memory.
pub fn limit_resources() -> Result<(), JailError> {
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_FSIZE] {
        let (soft, hard) = getrlimit(resource).map_err(JailError::step("read its limits"))?;
        if soft != hard {
            setrlimit(resource, hard, hard).map_err(JailError::step("raise its limits"))?;
        }
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(JailError::step("forbid core dumps"))
}

/// How many descriptors a file server can have before its table grows. It has one for each file that the guest remembers.
const DESCRIPTORS: u64 = 4096;

/// Has the table of descriptors be as large as a file server will need it. To be called while the process has one thread: with
/// several, the kernel waits for an RCU grace period, some ten milliseconds, whenever it doubles the table.
pub fn make_room_for_descriptors() -> Result<(), JailError> {
    const ACTION: &str = "make room for descriptors";
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(JailError::step(ACTION))?;
    let last = i32::try_from(limit.min(DESCRIPTORS)).unwrap_or(i32::MAX) - 1;
    let failed = |errno: rustix::io::Errno| JailError::Step(ACTION, errno.into());
    let any = open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    fcntl_dupfd_cloexec(&any, last).map(drop).map_err(failed)
}

/// Keeps these capabilities, and not for programs that it could execute.
pub fn drop_capabilities(kept: &[Capability]) -> Result<(), JailError> {
    let refused = |error: CapsError| JailError::Step("give up its capabilities", io::Error::other(error));
    drop_bounding_set().map_err(JailError::step("give up its capabilities"))?;
    caps::clear(None, CapSet::Ambient).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    let kept: HashSet<_> = kept.iter().copied().collect();
    caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused)
}

/// Drops all that the kernel knows, of which there may be more than this program knows.
fn drop_bounding_set() -> nix::Result<()> {
    for capability in 0u32.. {
        // SAFETY: no pointers.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            // Behind the last one.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
