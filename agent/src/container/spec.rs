//! Reads a container's config.json and a process's description, and refuses what cannot be honoured.

use std::{collections::HashSet, path::PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxIOPriority, Mount, PosixRlimit, Root, Scheduler, User,
};
use rustix::thread::CapabilitySet;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Why a config.json or a process's description is refused.
#[derive(Debug, Error)]
pub enum SpecError {
    /// It cannot be read as what it should be.
    #[error("config.json: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A field asks for something that the agent does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A field's value is wrong, or a needed field is missing.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl SpecError {
    /// A wrong value.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

/// Whether the number 0 in a field asks for nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Unset,
    Set,
}

/// The fields of config.json that are known and not honoured, the whole list; `*` stands for every element.
const CONTAINER_NOT_HONOURED: &[(&str, Zero)] = &[
    ("linux.intelRdt", Zero::Set),
    ("linux.memoryPolicy", Zero::Set),
    ("linux.mountLabel", Zero::Set),
    ("linux.netDevices", Zero::Set),
    ("linux.resources.blockIO.leafWeight", Zero::Unset),
    ("linux.resources.blockIO.weightDevice.*.leafWeight", Zero::Unset),
    ("linux.resources.cpu.realtimePeriod", Zero::Unset),
    ("linux.resources.cpu.realtimeRuntime", Zero::Unset),
    ("linux.resources.memory.disableOOMKiller", Zero::Set),
    ("linux.resources.memory.kernel", Zero::Unset),
    ("linux.resources.memory.kernelTCP", Zero::Unset),
    ("linux.resources.memory.swappiness", Zero::Set),
    ("linux.resources.network.classID", Zero::Unset),
    ("linux.resources.network.priorities", Zero::Set),
    ("linux.resources.rdma", Zero::Set),
    ("linux.seccomp.listenerMetadata", Zero::Set),
    ("linux.seccomp.listenerPath", Zero::Set),
    ("mounts.*.gidMappings", Zero::Set),
    ("mounts.*.uidMappings", Zero::Set),
];

/// The fields of the process object that are known and not honoured.
const PROCESS_NOT_HONOURED: &[(&str, Zero)] = &[
    ("commandLine", Zero::Set),
    ("selinuxLabel", Zero::Set),
    ("user.username", Zero::Set),
];

/// A config.json that has everything a container needs.
#[derive(Debug)]
pub struct ContainerSpec {
    /// The root file system.
    pub root: Root,
    /// What is mounted in it.
    pub mounts: Vec<Mount>,
    /// The host name, if it is to be set.
    pub hostname: Option<String>,
    /// The NIS domain name, if it is to be set.
    pub domainname: Option<String>,
    /// The first process.
    pub process: Process,
    /// The Linux section.
    pub linux: Linux,
}

/// The process object. The type of oci-spec would do, but its `execCPUAffinity` is checked by regular expressions, whose
/// engine would be a quarter of the agent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "they are the fields of the runtime specification")]
pub struct Process {
    #[serde(default)]
    pub user: User,
    pub args: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub cwd: PathBuf,
    pub capabilities: Option<LinuxCapabilities>,
    pub rlimits: Option<Vec<PosixRlimit>>,
    pub no_new_privileges: Option<bool>,
    pub apparmor_profile: Option<String>,
    pub oom_score_adj: Option<i32>,
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<LinuxIOPriority>,
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// The processors of a further process: while it is set up, and from its program on.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "they are the fields of the runtime specification")]
pub struct CpuAffinity {
    pub initial: Option<String>,
    pub r#final: Option<String>,
}

/// A config.json as it is written.
#[derive(Deserialize)]
struct Document {
    root: Option<Root>,
    mounts: Option<Vec<Mount>>,
    hostname: Option<String>,
    domainname: Option<String>,
    process: Option<Process>,
    linux: Option<Linux>,
}

impl ContainerSpec {
    /// Reads a config.json.
    ///
    /// # Errors
    /// When it is malformed, lacks something, or has a field that is not honoured; the error names it.
    pub fn parse(json: &[u8]) -> Result<Self, SpecError> {
        let mut value: Value = serde_json::from_slice(json)?;
        refuse(&value, "", CONTAINER_NOT_HONOURED)?;
        if let Some(pids) = value.pointer_mut("/linux/resources/pids")
            && pids.get("limit").is_none_or(Value::is_null)
        {
            // The typed form has no absent limit.
            *pids = Value::Null;
        }
        if let Some(process) = value.get_mut("process") {
            prepare_process(process, "process.")?;
        }
        let document: Document = serde_json::from_value(value)?;
        let missing = |field: &str| SpecError::invalid(field, "is missing");
        let container = Self {
            root: document.root.ok_or_else(|| missing("root"))?,
            mounts: document.mounts.unwrap_or_default(),
            hostname: document.hostname.filter(|name| !name.is_empty()),
            domainname: document.domainname.filter(|name| !name.is_empty()),
            process: document.process.ok_or_else(|| missing("process"))?,
            linux: document.linux.ok_or_else(|| missing("linux"))?,
        };
        if !container.root.path().is_absolute() {
            return Err(SpecError::invalid("root.path", "is not absolute"));
        }
        check_process(&container.process, "process.")?;
        for (index, mount) in container.mounts.iter().enumerate() {
            let field = format!("mounts[{index}].destination");
            check_text(&field, &mount.destination().to_string_lossy())?;
        }
        Ok(container)
    }
}

/// Reads the process object that a later process is described with.
///
/// # Errors
/// As [`ContainerSpec::parse`].
pub fn parse_process(json: &[u8]) -> Result<Process, SpecError> {
    let mut value: Value = serde_json::from_slice(json)?;
    prepare_process(&mut value, "process.")?;
    let process: Process = serde_json::from_value(value)?;
    check_process(&process, "process.")?;
    Ok(process)
}

fn prepare_process(process: &mut Value, prefix: &str) -> Result<(), SpecError> {
    refuse(process, prefix, PROCESS_NOT_HONOURED)?;
    let mut unknown = HashSet::new();
    if let Some(Value::Object(sets)) = process.get_mut("capabilities") {
        for names in sets.values_mut().filter_map(Value::as_array_mut) {
            names.retain(|name| {
                let known = name.as_str().is_none_or(|name| {
                    CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(name)).is_some()
                });
                if !known {
                    unknown.insert(name.to_string());
                }
                known
            });
        }
    }
    for name in unknown {
        eprintln!("bulkhead-agent: {prefix}capabilities: {name} is not known here, left out");
    }
    Ok(())
}

fn check_process(process: &Process, prefix: &str) -> Result<(), SpecError> {
    let field = |name: &str| format!("{prefix}{name}");
    let args = process.args.as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::invalid(field("args"), "is empty"));
    }
    for arg in args {
        check_text(&field("args"), arg)?;
    }
    for variable in process.env.iter().flatten() {
        check_text(&field("env"), variable)?;
    }
    if !process.cwd.is_absolute() {
        return Err(SpecError::invalid(
            field("cwd"),
            format!("\"{}\" is not absolute", process.cwd.display()),
        ));
    }
    check_text(&field("cwd"), &process.cwd.to_string_lossy())?;
    let user = &process.user;
    let ids = [("user.uid", user.uid()), ("user.gid", user.gid())];
    let groups = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| ("user.additionalGids", *gid));
    for (name, id) in ids.into_iter().chain(groups) {
        check_id(&field(name), id)?;
    }
    let mut limits = HashSet::new();
    for limit in process.rlimits.iter().flatten() {
        if !limits.insert(limit.typ() as u32) {
            return Err(SpecError::invalid(
                field("rlimits"),
                format!("{} is given twice", limit.typ()),
            ));
        }
    }
    Ok(())
}

/// Checks the id of a user or group: the largest number stands for none.
///
/// # Errors
/// Names the field.
pub fn check_id(field: &str, id: u32) -> Result<(), SpecError> {
    if id == u32::MAX {
        return Err(SpecError::invalid(field, format!("{id} is no id")));
    }
    Ok(())
}

fn check_text(field: &str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') {
        return Err(SpecError::invalid(field, "has a NUL byte in it"));
    }
    Ok(())
}

fn refuse(document: &Value, prefix: &str, fields: &[(&str, Zero)]) -> Result<(), SpecError> {
    for (path, zero) in fields {
        let steps: Vec<&str> = path.split('.').collect();
        if asks_for_something(document, &steps, *zero) {
            return Err(SpecError::Unsupported(format!("{prefix}{path}")));
        }
    }
    Ok(())
}

fn asks_for_something(value: &Value, steps: &[&str], zero: Zero) -> bool {
    match steps.split_first() {
        None => match value {
            Value::Null => false,
            Value::Bool(set) => *set,
            Value::Number(number) => zero == Zero::Set || number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
        },
        Some((&"*", rest)) => value
            .as_array()
            .is_some_and(|items| items.iter().any(|item| asks_for_something(item, rest, zero))),
        Some((step, rest)) => value
            .get(step)
            .is_some_and(|member| asks_for_something(member, rest, zero)),
    }
}

#[cfg(test)]
mod tests;
