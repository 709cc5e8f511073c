//! The fields of `config.json` that cannot be honoured yet. They are refused by name, never dropped.

use serde_json::Value;

use super::FieldError;

/// A field that cannot be honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsupported {
    /// Its path; `[]` stands for every item of a list.
    pub path: &'static str,
    /// Why not.
    pub reason: &'static str,
}

const fn unsupported(path: &'static str, reason: &'static str) -> Unsupported {
    Unsupported { path, reason }
}

/// Every field that the host's side refuses when it says something. A field that is there and empty says nothing.
pub const UNSUPPORTED: &[Unsupported] = &[
    unsupported("hooks", "hooks are not supported yet"),
    unsupported(
        "vm",
        "the virtual machine is described by bulkhead's configuration file; this section is not supported yet",
    ),
    unsupported(
        "linux.namespaces[].path",
        "a virtual machine cannot join a namespace of the host",
    ),
    unsupported("linux.netDevices", "network devices are not supported yet"),
    unsupported(
        "linux.intelRdt",
        "cache and bandwidth allocation is not supported",
    ),
    unsupported(
        "linux.memoryPolicy",
        "a guest has one memory node, so there is no policy to set",
    ),
    unsupported(
        "linux.seccomp.listenerPath",
        "a process of the host cannot answer for system calls in the guest",
    ),
    unsupported(
        "linux.seccomp.listenerMetadata",
        "a process of the host cannot answer for system calls in the guest",
    ),
    unsupported(
        "linux.resources.network",
        "the net_cls and net_prio controllers are of cgroup v1; the guest has cgroup v2",
    ),
    unsupported(
        "process.commandLine",
        "the guest is Linux, which takes process.args",
    ),
    unsupported(
        "process.user.username",
        "the guest is Linux, which takes process.user.uid",
    ),
    unsupported("freebsd", "the guest is Linux"),
    unsupported("solaris", "the guest is Linux"),
    unsupported("windows", "the guest is Linux"),
    unsupported("zos", "the guest is Linux"),
];

/// Refuses the first field of [`UNSUPPORTED`] that says something.
///
/// # Errors
/// That field, by its path.
pub fn refuse_unsupported(document: &Value) -> Result<(), FieldError> {
    UNSUPPORTED
        .iter()
        .try_for_each(|field| match find(document, field.path, String::new()) {
            Some(place) => Err(FieldError::new(
                place,
                format!("{}; remove it from config.json", field.reason),
            )),
            None => Ok(()),
        })
}

/// The concrete path of the first value at `path` that says something.
fn find(value: &Value, path: &str, place: String) -> Option<String> {
    if path.is_empty() {
        return says_something(value).then_some(place);
    }
    let (segment, rest) = path.split_once('.').unwrap_or((path, ""));
    let name = segment.strip_suffix("[]").unwrap_or(segment);
    let member = value.get(name)?;
    let place = if place.is_empty() {
        name.to_owned()
    } else {
        format!("{place}.{name}")
    };
    if name.len() == segment.len() {
        return find(member, rest, place);
    }
    let items = member.as_array()?;
    items
        .iter()
        .enumerate()
        .find_map(|(index, item)| find(item, rest, format!("{place}[{index}]")))
}

/// Whether a value is more than an elaborate nothing, such as `{"hypervisor": {"path": ""}}`.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(says_something),
        Value::Object(members) => members.values().any(says_something),
        Value::Bool(_) | Value::Number(_) => true,
    }
}
