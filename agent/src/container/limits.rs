//! Changing the limits of a container that exists.

use std::io;

use oci_spec::runtime::LinuxResources;

use super::{
    cgroup::Cgroup,
    cgroup_values::{Setting, settings},
    spec::SpecError,
};
use crate::{
    error::AgentError,
    failure::{Failure, Step},
};

/// A file and what it said before.
struct Former<'a> {
    file: &'a str,
    content: String,
}

/// Writes the limits that `resources` speaks of.
///
/// # Errors
/// The field whose limit makes no sense, is beyond the guest's memory, or is refused by the kernel. The limits written
/// before that one are then as they were, as far as the kernel takes them back.
pub fn update(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), AgentError> {
    let settings = settings(resources)?;
    check_memory(cgroup, resources)?;
    let mut written = Vec::new();
    for setting in &settings {
        match replace(cgroup, setting) {
            Ok(former) => written.push(former),
            Err(failure) => {
                take_back(cgroup, &written);
                return Err(failure.into());
            }
        }
    }
    Ok(())
}

fn check_memory(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), AgentError> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let Some(limit) = memory.limit().and_then(|limit| u64::try_from(limit).ok()) else {
        return Ok(());
    };
    let field = "linux.resources.memory.limit";
    let unchanged = || {
        cgroup
            .read("memory.max")
            .is_ok_and(|max| max.trim() == limit.to_string())
    };
    let guest = guest_memory();
    if limit > guest && !unchanged() {
        let problem = format!(
            "{limit} bytes are more than the virtual machine has ({guest} bytes, set when it was started)"
        );
        return Err(SpecError::invalid(field, problem).into());
    }
    if memory.check_before_update() == Some(true) && limit > 0 {
        let used = cgroup
            .read("memory.current")
            .step(|| format!("{field}: read memory.current"))?;
        let used: u64 = used.trim().parse().unwrap_or(0);
        if used > limit {
            let problem = format!("{limit} bytes are less than the {used} bytes in use (checkBeforeUpdate)");
            return Err(SpecError::invalid(field, problem).into());
        }
    }
    Ok(())
}

/// In bytes.
fn guest_memory() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit).saturating_mul(info.totalram)
}

/// Writes a setting; gives what was there before.
fn replace<'a>(cgroup: &Cgroup, setting: &'a Setting) -> Result<Former<'a>, Failure> {
    let Setting { file, value, field } = setting;
    let exchange = || -> io::Result<String> {
        let former = cgroup.read(file)?;
        cgroup.write(file, value)?;
        Ok(former)
    };
    match exchange() {
        Ok(content) => Ok(Former { file, content }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::new(format!("{field}: the guest's kernel has no {file}")))
        }
        Err(error) => Err(error).step(|| format!("{field}: write \"{value}\" to {file}")),
    }
}

/// Writes back what was there, the last one first. A line at a time, as files with a line for each device take them.
fn take_back(cgroup: &Cgroup, written: &[Former<'_>]) {
    for Former { file, content } in written.iter().rev() {
        let mut lines = content.lines().peekable();
        let first = if lines.peek().is_none() { Some("\n") } else { None };
        for line in first.into_iter().chain(lines) {
            if let Err(error) = cgroup.write(file, line) {
                eprintln!("bulkhead-agent: set {file} back to \"{line}\": {error}");
            }
        }
    }
}
