//! Reads a container's config.json and a process's description. The host's side has refused by then what cannot be
//! honoured (see [`bulkhead_agent_protocol::spec`]).

mod place;

use std::{collections::HashSet, path::PathBuf};

use bulkhead_agent_protocol::hook::Hooks;
use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxIOPriority, LinuxResources, Mount, PosixRlimit, Root, User,
};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use self::place::Place;
use crate::process::scheduling::Scheduler;

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

/// The longest host or domain name (`__NEW_UTS_LEN`).
const LONGEST_NAME: usize = 64;

impl SpecError {
    /// A wrong value.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

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
    /// What else is run, and when.
    pub hooks: Hooks,
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
    hooks: Option<Hooks>,
    linux: Option<Linux>,
}

impl ContainerSpec {
    /// Reads a config.json.
    ///
    /// # Errors
    /// When it is malformed, or lacks something; the error names the field.
    pub fn parse(json: &[u8]) -> Result<Self, SpecError> {
        let mut value: Value = serde_json::from_slice(json)?;
        if let Some(resources) = value.pointer_mut("/linux/resources") {
            prepare_resources(resources);
        }
        if let Some(process) = value.get_mut("process") {
            leave_out_unknown_capabilities(process);
        }
        let document: Document = read("", &value)?;
        let missing = |field: &str| SpecError::invalid(field, "is missing");
        let container = Self {
            root: document.root.ok_or_else(|| missing("root"))?,
            mounts: document.mounts.unwrap_or_default(),
            hostname: document.hostname.filter(|name| !name.is_empty()),
            domainname: document.domainname.filter(|name| !name.is_empty()),
            process: document.process.ok_or_else(|| missing("process"))?,
            hooks: document.hooks.unwrap_or_default(),
            linux: document.linux.ok_or_else(|| missing("linux"))?,
        };
        if !container.root.path().is_absolute() {
            return Err(SpecError::invalid("root.path", "is not absolute"));
        }
        check_name("hostname", container.hostname.as_deref())?;
        check_name("domainname", container.domainname.as_deref())?;
        check_process(&container.process, "process.")?;
        for (index, mount) in container.mounts.iter().enumerate() {
            let field = format!("mounts[{index}].destination");
            check_text(&field, &mount.destination().to_string_lossy())?;
        }
        Ok(container)
    }
}

/// Reads the limits that a container is to have from now on: the object linux.resources.
///
/// # Errors
/// As [`ContainerSpec::parse`].
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources, SpecError> {
    let mut resources: Value = serde_json::from_slice(json)?;
    prepare_resources(&mut resources);
    read("linux.resources", &resources)
}

/// Reads what is at `root` of a config.json. The error names the field.
fn read<T: DeserializeOwned>(root: &str, value: &Value) -> Result<T, SpecError> {
    let text = value.to_string();
    serde_json::from_str(&text).map_err(|error| {
        // It is one line.
        let place = Place::at_the_end_of(text.as_bytes().get(..error.column()).unwrap_or_default());
        let said = error.to_string();
        let (problem, _) = said.rsplit_once(" at line ").unwrap_or((&said, ""));
        let path = place.to_string();
        let field = match (root, path.as_str()) {
            ("", _) => path,
            (_, "") => root.to_owned(),
            (_, below) => format!("{root}.{below}"),
        };
        SpecError::invalid(field, problem)
    })
}

fn prepare_resources(resources: &mut Value) {
    if let Some(pids) = resources.get_mut("pids")
        && pids.get("limit").is_none_or(Value::is_null)
    {
        // The typed form has no absent limit.
        *pids = Value::Null;
    }
}

/// Reads the process object that a later process is described with.
///
/// # Errors
/// As [`ContainerSpec::parse`].
pub fn parse_process(json: &[u8]) -> Result<Process, SpecError> {
    let mut value: Value = serde_json::from_slice(json)?;
    leave_out_unknown_capabilities(&mut value);
    let process: Process = read("process", &value)?;
    check_process(&process, "process.")?;
    Ok(process)
}

fn leave_out_unknown_capabilities(process: &mut Value) {
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
        eprintln!("bulkhead-agent: process.capabilities: {name} is not known here, left out");
    }
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

/// Checks a host or domain name.
fn check_name(field: &str, name: Option<&str>) -> Result<(), SpecError> {
    let name = name.unwrap_or_default();
    check_text(field, name)?;
    if name.len() > LONGEST_NAME {
        let problem = format!("is longer than the {LONGEST_NAME} bytes that the kernel takes");
        return Err(SpecError::invalid(field, problem));
    }
    Ok(())
}

fn check_text(field: &str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') {
        return Err(SpecError::invalid(field, "has a NUL byte in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
