//! Limits and capabilities.

use std::collections::HashSet;
use std::io;

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
