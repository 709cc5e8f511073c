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
/// The field whose limit makes no sense, or is refused by the kernel. The limits written before that one are then as they
/// were, as far as the kernel takes them back.
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

/// Refuses a limit of memory below what is in use, if that is asked for.
fn check_memory(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), AgentError> {
    let memory = resources.memory().as_ref();
    let checked = memory.filter(|memory| memory.check_before_update() == Some(true));
    let limit = checked.and_then(|memory| u64::try_from(memory.limit()?).ok());
    let Some(limit) = limit.filter(|limit| *limit > 0) else {
        return Ok(());
    };
    let field = "linux.resources.memory.limit";
    let used = cgroup
        .read("memory.current")
        .step(|| format!("{field}: read memory.current"))?;
    let used: u64 = used.trim().parse().unwrap_or(0);
    if used > limit {
        let problem = format!("{limit} bytes are less than the {used} bytes in use (checkBeforeUpdate)");
        return Err(SpecError::invalid(field, problem).into());
    }
    Ok(())
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
