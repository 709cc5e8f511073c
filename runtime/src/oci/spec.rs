//! The fields of `config.json` that the host's side acts upon.

use std::collections::BTreeMap;

use bulkhead_agent_protocol::hook::Hooks;
use rustix::termios::Winsize;
use serde::Deserialize;
use serde_json::Value;

use super::{FieldError, IdRange, Vm};

/// A view of `config.json`: what the host's side acts upon, and what is cheap to find wrong before a microVM is started.
/// Everything else in the document is the agent's business.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The version of the specification that the document follows.
    pub oci_version: String,
    /// The container's root file system.
    pub root: Option<Root>,
    /// What is mounted over it, in order.
    pub mounts: Vec<Mount>,
    /// What runs in it.
    pub process: Option<Process>,
    /// Free-form notes, repeated in the container's state.
    pub annotations: BTreeMap<String, String>,
    /// What else is run, and when.
    pub hooks: Hooks,
    /// The Linux section.
    pub linux: Linux,
    /// The virtual machine's section.
    pub vm: Option<Vm>,
}

/// The container's root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: String,
    /// Whether the container may only read it.
    pub readonly: bool,
}

/// One mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where, an absolute path in the container.
    pub destination: String,
    /// The file system's type; `bind` or anything for bind mounts, which are told by their options.
    #[serde(rename = "type")]
    pub kind: String,
    /// What; for a bind mount a path on the host, absolute or relative to the bundle.
    pub source: String,
    /// As `mount(8)` takes them.
    pub options: Vec<String>,
    /// Whom the owners of its files are shown as.
    #[serde(rename = "uidMappings")]
    pub uid_mappings: Vec<IdRange>,
    /// The same for groups.
    #[serde(rename = "gidMappings")]
    pub gid_mappings: Vec<IdRange>,
}

impl Mount {
    /// Whether a file or folder of the host is to appear in the container; not, whether one that has appeared is to change.
    pub fn is_bind(&self) -> bool {
        let binds = self.kind == "bind" || self.has_option("bind") || self.has_option("rbind");
        binds && !self.has_option("remount")
    }

    /// Whether the mounts below the source come with it.
    pub fn is_recursive(&self) -> bool {
        self.has_option("rbind")
    }

    /// Whether the container may only read it; what is mounted below may be writable. The last of `ro` and `rw` wins, as in
    /// `mount(8)`.
    pub fn is_read_only(&self) -> bool {
        self.last_of("ro", "rw")
    }

    /// Whether the container may only read it and all that is mounted below. The last of `rro` and `rrw` wins.
    pub fn is_read_only_below(&self) -> bool {
        self.last_of("rro", "rrw")
    }

    /// Whether `on` is among the options, and `off` not behind it.
    fn last_of(&self, on: &str, off: &str) -> bool {
        let last = self
            .options
            .iter()
            .rev()
            .find(|option| *option == on || *option == off);
        last.is_some_and(|option| option == on)
    }

    fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|o| o == name)
    }
}

/// The program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it gets a pseudo-terminal.
    pub terminal: bool,
    /// The terminal's first size.
    pub console_size: Option<ConsoleSize>,
    /// Its working directory, an absolute path in the container.
    pub cwd: String,
    /// Its name and arguments.
    pub args: Vec<String>,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Who it runs as.
    pub user: User,
    /// The AppArmor profile that confines it.
    pub apparmor_profile: Option<String>,
}

/// Who a process runs as, in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// More groups.
    pub additional_gids: Vec<u32>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

impl ConsoleSize {
    /// As terminals have it; none if it has no extent.
    pub fn window(self) -> Option<Winsize> {
        (self.height > 0 && self.width > 0).then_some(Winsize {
            ws_row: self.height,
            ws_col: self.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        })
    }
}

/// The Linux section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Where in the host's cgroup tree the sandbox is to live: absolute is from the root of the tree.
    pub cgroups_path: String,
    /// Who the users of the container's user namespace are.
    pub uid_mappings: Vec<IdRange>,
    /// Who its groups are.
    pub gid_mappings: Vec<IdRange>,
    /// The container's limits.
    pub resources: Resources,
    /// What it does not share with others.
    pub namespaces: Vec<Namespace>,
    /// The device nodes that it is to have.
    pub devices: Vec<Device>,
}

impl Linux {
    /// The entry for the network, if there is one.
    pub fn network(&self) -> Option<&Namespace> {
        self.namespaces
            .iter()
            .find(|namespace| namespace.kind == Namespace::NETWORK)
    }
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Where it is in the container.
    pub path: String,
    /// `b` for a block device, `c` or `u` for a character device, `p` for a named pipe.
    #[serde(rename = "type")]
    pub kind: String,
    /// The first part of its number.
    pub major: i64,
    /// The second part of its number.
    pub minor: i64,
}

/// A namespace of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The file that stands for it, if it is there already; else empty.
    pub path: String,
}

impl Namespace {
    /// The type of network namespaces.
    pub const NETWORK: &str = "network";

    /// Whether it is to be that of another container; the network is the sandbox's.
    pub fn is_of_another(&self) -> bool {
        !self.path.is_empty() && self.kind != Self::NETWORK
    }

    /// The process by which it is named, if it is named as that process's in `/proc`.
    pub fn process(&self) -> Option<i32> {
        let (pid, file) = self.path.strip_prefix("/proc/")?.split_once("/ns/")?;
        // The specification calls two of them otherwise than the kernel does.
        let kind = match file {
            "mnt" => "mount",
            file => file,
        };
        (kind == self.kind).then(|| pid.parse().ok()).flatten()
    }
}

/// The limits by which a virtual machine is sized, and those that only the host can keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory.
    pub memory: MemoryLimits,
    /// Processor time.
    pub cpu: CpuLimits,
    /// Block devices.
    #[serde(rename = "blockIO")]
    pub block_io: BlockIo,
    /// Which devices may be used; the last rule that applies decides.
    pub devices: Vec<DeviceRule>,
}

/// A rule for the use of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceRule {
    /// Whether it allows or denies.
    pub allow: bool,
    /// `a` or nothing for all devices, `b`, `c`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Absent or -1: all.
    pub major: Option<i64>,
    /// Absent or -1: all.
    pub minor: Option<i64>,
    /// Of `r`, `w` and `m`; empty: all.
    pub access: String,
}

impl DeviceRule {
    /// Whether it is for all devices, whatever numbers and access it has besides.
    fn is_for_all(&self) -> bool {
        matches!(self.kind.as_str(), "" | "a")
    }
}

impl Resources {
    /// Whether every device may be used, but for those that a later rule denies: no rule before the last one for all devices
    /// counts.
    pub fn allow_every_device(&self) -> bool {
        let for_all = |rule: &&DeviceRule| rule.is_for_all();
        self.devices
            .iter()
            .rev()
            .find(for_all)
            .is_some_and(|rule| rule.allow)
    }

    /// Whether a block device may be written to.
    pub fn may_write_block(&self, (major, minor): (u32, u32)) -> bool {
        let is =
            |rule: Option<i64>, number: u32| rule.is_none_or(|rule| rule == -1 || rule == i64::from(number));
        let applies = |rule: &&DeviceRule| {
            rule.is_for_all()
                || (rule.kind == "b"
                    && is(rule.major, major)
                    && is(rule.minor, minor)
                    && (rule.access.is_empty() || rule.access.contains('w')))
        };
        self.devices
            .iter()
            .rev()
            .find(applies)
            .is_some_and(|rule| rule.allow)
    }
}

/// Memory limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MemoryLimits {
    /// In bytes; zero or less: none.
    pub limit: Option<i64>,
    /// Of memory and swap together, in bytes; less than zero: none.
    pub swap: Option<i64>,
}

/// Processor limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CpuLimits {
    /// Share of busy processors, 2 to 262144 around 1024; zero: unset.
    pub shares: Option<u64>,
    /// Microseconds of processor time in a period; zero or less: no limit.
    pub quota: Option<i64>,
    /// The period in microseconds; the kernel's default is 100 000.
    pub period: Option<u64>,
    /// Microseconds of processor time that may be saved up.
    pub burst: Option<u64>,
    /// Whether everybody else comes first: 0 or 1.
    pub idle: Option<i64>,
    /// The host's processors, as in `0-3,7`; empty: all.
    pub cpus: String,
    /// The host's memory nodes; empty: all.
    pub mems: String,
}

/// Limits of block devices, which are the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockIo {
    /// Share of busy devices, 10 to 1000; zero: unset.
    pub weight: Option<u16>,
    /// Weights for single devices.
    pub weight_device: Vec<DeviceWeight>,
    /// Bytes read in a second.
    pub throttle_read_bps_device: Vec<DeviceRate>,
    /// Bytes written in a second.
    pub throttle_write_bps_device: Vec<DeviceRate>,
    /// Requests to read in a second.
    #[serde(rename = "throttleReadIOPSDevice")]
    pub throttle_read_iops_device: Vec<DeviceRate>,
    /// Requests to write in a second.
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub throttle_write_iops_device: Vec<DeviceRate>,
}

/// The weight of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceWeight {
    /// The device's numbers on the host.
    pub major: u32,
    /// As above.
    pub minor: u32,
    /// As [`BlockIo::weight`].
    pub weight: Option<u16>,
}

/// What may go through one device in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceRate {
    /// The device's numbers on the host.
    pub major: u32,
    /// As above.
    pub minor: u32,
    /// Bytes or requests; zero: no limit.
    pub rate: u64,
}

impl Spec {
    /// Takes the view of a document whose nulls have been dropped.
    ///
    /// # Errors
    /// The first field whose type is not the specification's.
    pub fn view(document: &Value) -> Result<Self, FieldError> {
        serde_path_to_error::deserialize(document).map_err(|error| located("", &error))
    }
}

/// An error of reading the object at `root`, which is empty for the whole document, by the path of the field.
pub fn located(root: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    let field = match (root, error.path().to_string().as_str()) {
        ("", ".") => "the document".to_owned(),
        (_, ".") => root.to_owned(),
        ("", path) => path.to_owned(),
        (_, path) => format!("{root}.{path}"),
    };
    FieldError::new(field, error.inner().to_string())
}

/// Drops every object member that is null: in JSON written from Go an unset field may be either.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
