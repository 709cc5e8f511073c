//! Pausing a container: its cgroup is frozen.

use std::time::Duration;

use tokio::time::timeout;

use super::cgroup::{Cgroup, EVENTS, number};
use crate::failure::{Failure, Step};

/// How long processes may take to stand still. One that waits in the kernel for a file system of the host stands still
/// only when that has answered.
const DEADLINE: Duration = Duration::from_secs(10);

/// Freezes every process in a cgroup and below, and waits until all stand still.
///
/// # Errors
/// When one does not in time; all go on then.
pub async fn freeze(cgroup: &Cgroup) -> Result<(), Failure> {
    let named = || "pause";
    set(cgroup, true)?;
    let frozen = cgroup.wait_until(EVENTS, |events| number(events, "frozen") == 1);
    let failure = match timeout(DEADLINE, frozen).await {
        Ok(Ok(())) => return Ok(()),
        Ok(error) => error.step(named).err(),
        Err(_) => None,
    };
    set(cgroup, false)?;
    Err(failure.unwrap_or_else(|| {
        Failure::new(format!(
            "{}: a process did not stand still within {} s, so all go on",
            named(),
            DEADLINE.as_secs()
        ))
    }))
}

/// Lets them go on.
///
/// # Errors
/// What writing to the cgroup gives.
pub fn thaw(cgroup: &Cgroup) -> Result<(), Failure> {
    set(cgroup, false)
}

fn set(cgroup: &Cgroup, frozen: bool) -> Result<(), Failure> {
    let (value, name) = if frozen { ("1", "pause") } else { ("0", "resume") };
    cgroup
        .write("cgroup.freeze", value)
        .step(|| format!("{name}: write \"{value}\" to cgroup.freeze"))
}
