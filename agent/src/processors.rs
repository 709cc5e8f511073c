//! The guest's processors, of which some may come after the start.

use std::fs;

use crate::failure::{Failure, Step};

/// Brings processors online until there are `count`: the kernel numbers them from 0, and the first one is always there.
/// One that is online already stays so.
///
/// # Errors
/// The kernel does not know that many, or one does not start.
pub fn bring_online(count: u32) -> Result<(), Failure> {
    for number in 1..count {
        let switch = format!("/sys/devices/system/cpu/cpu{number}/online");
        fs::write(switch, "1").step(|| format!("bring processor {number} online"))?;
    }
    Ok(())
}
