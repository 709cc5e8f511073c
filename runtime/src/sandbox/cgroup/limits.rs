//! What a sandbox as a whole may use of the host, and the files of its cgroup that say so.
//!
//! The container's own limits are the business of its cgroup in the guest. Here are those that bound the virtual machine,
//! and those that only the host can keep: its processors, its memory nodes and its block devices.

use std::fmt::Display;

use bulkhead_agent_protocol::spec::weight_of_shares;

use super::cpu_list::CpuList;
use crate::{
    config::Config,
    oci::{BlockIo, CpuLimits, FieldError, MemoryLimits, Resources},
};

const MIB: u64 = 1 << 20;

/// Of the guest's memory, the part that the host's kernel needs to map it: two page tables and KVM's own records, 24 bytes
/// for a page of 4 KiB, rounded up.
const MAPPING_DIVISOR: u64 = 128;

/// The kernel's period of processor time, when none is given.
const PERIOD: u64 = 100_000;

/// The limits of a sandbox on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all processes, in bytes.
    pub(super) memory: Option<u64>,
    /// Swap of all processes, in bytes.
    pub(super) swap: Option<Amount>,
    /// Share of the processors when they are busy, 1 to 10000 around 100.
    pub(super) weight: Option<u64>,
    /// Whether everybody else comes first.
    idle: Option<i64>,
    /// Processor time.
    pub(super) bandwidth: Option<Bandwidth>,
    /// Microseconds of processor time that may be saved up.
    burst: Option<u64>,
    /// The processors.
    pub(super) cpus: Option<CpuList>,
    /// The memory nodes.
    pub(super) mems: Option<CpuList>,
    /// Lines for the `io` controller.
    io: Vec<Setting>,
}

/// An amount that may be unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Of(u64),
    /// Without limit.
    Max,
}

/// Processor time, both in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// May be used in each period.
    pub quota: Amount,
    /// The period.
    pub period: u64,
}

/// A line for one file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file's name, which starts with its controller's.
    pub file: &'static str,
    /// What to write.
    pub value: String,
    /// The field of `config.json` that asks for it; none if it is our own wish, which yields to what the host has.
    pub field: Option<String>,
}

impl Limits {
    /// Those of the sandbox that this container owns, but for the memory: that depends on how big the machine is.
    ///
    /// # Errors
    /// The first field that cannot be honoured.
    pub fn of(resources: &Resources) -> Result<Self, FieldError> {
        let CpuLimits {
            shares,
            quota,
            period,
            burst,
            idle,
            ref cpus,
            ref mems,
        } = resources.cpu;
        let quota = quota.filter(|&quota| quota != 0);
        let period = period.filter(|&period| period > 0);
        let bandwidth = (quota.is_some() || period.is_some()).then(|| Bandwidth {
            quota: quota.map_or(Amount::Max, Amount::from_signed),
            period: period.unwrap_or(PERIOD),
        });
        Ok(Self {
            memory: None,
            swap: swap_of(resources.memory)?,
            // The kernel has no weight for what is idle.
            weight: shares
                .filter(|&shares| shares > 0 && idle.unwrap_or_default() == 0)
                .map(weight_of_shares),
            idle,
            bandwidth,
            burst,
            cpus: list(cpus, "linux.resources.cpu.cpus")?,
            mems: list(mems, "linux.resources.cpu.mems")?,
            io: io_settings(&resources.block_io)?,
        })
    }

    /// A limit of memory alone, in bytes.
    pub(super) fn of_memory(bytes: u64) -> Self {
        Self {
            memory: Some(bytes),
            ..Self::default()
        }
    }

    /// The same, and the memory that a machine with `memory_mib` can need.
    pub fn with_memory(self, config: &Config, memory_mib: u32) -> Self {
        Self {
            memory: memory_of(config, memory_mib),
            ..self
        }
    }

    /// Those of a container that runs in another one's sandbox: none. On the host there is only its stand-in.
    ///
    /// # Errors
    /// A field that could only be honoured for the sandbox as a whole.
    pub fn of_joined(resources: &Resources) -> Result<Self, FieldError> {
        let foreign = [
            ("linux.resources.cpu.cpus", !resources.cpu.cpus.is_empty()),
            ("linux.resources.cpu.mems", !resources.cpu.mems.is_empty()),
            (
                "linux.resources.blockIO",
                resources.block_io != BlockIo::default(),
            ),
        ];
        match foreign.iter().find(|(_, is_set)| *is_set) {
            Some((field, _)) => Err(FieldError::new(
                *field,
                "holds for a sandbox as a whole, which belongs to another container; set it there",
            )),
            None => Ok(Self::default()),
        }
    }

    /// The files to write, in this order.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let wish = |file, value: &dyn Display| Setting {
            file,
            value: value.to_string(),
            field: None,
        };
        let asked = |file, value: &dyn Display, field: &str| Setting {
            field: Some(format!("linux.resources.{field}")),
            ..wish(file, value)
        };
        let mut all = Vec::new();
        all.extend(self.memory.map(|bytes| wish("memory.max", &bytes)));
        all.extend(
            self.swap
                .map(|swap| asked("memory.swap.max", &swap, "memory.swap")),
        );
        all.extend(self.idle.map(|idle| asked("cpu.idle", &idle, "cpu.idle")));
        all.extend(
            self.weight
                .map(|weight| asked("cpu.weight", &weight, "cpu.shares")),
        );
        all.extend(self.bandwidth.map(|Bandwidth { quota, period }| {
            asked("cpu.max", &format_args!("{quota} {period}"), "cpu.quota")
        }));
        all.extend(
            self.burst
                .map(|burst| asked("cpu.max.burst", &burst, "cpu.burst")),
        );
        all.extend(
            self.cpus
                .as_ref()
                .map(|list| asked("cpuset.cpus", list, "cpu.cpus")),
        );
        all.extend(
            self.mems
                .as_ref()
                .map(|list| asked("cpuset.mems", list, "cpu.mems")),
        );
        all.extend(self.io.iter().cloned());
        all
    }
}

impl Amount {
    /// As `config.json` writes it: less than zero is no limit.
    fn from_signed(amount: i64) -> Self {
        u64::try_from(amount).map_or(Self::Max, Self::Of)
    }
}

impl Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Of(amount) => amount.fmt(f),
            Self::Max => f.write_str("max"),
        }
    }
}

/// What the guest's memory and the host's side of the sandbox can need. It is a bound on a VMM that goes wrong, not on the
/// container: that one's own limit is kept in the guest, so that the VMM is never what is killed for it.
pub fn memory_of(config: &Config, memory_mib: u32) -> Option<u64> {
    let guest = u64::from(memory_mib) * MIB;
    let overhead = u64::from(config.host_overhead_mib) * MIB;
    (overhead > 0).then(|| guest + guest / MAPPING_DIVISOR + overhead)
}

/// `config.json` counts memory and swap together, the kernel apart.
fn swap_of(memory: MemoryLimits) -> Result<Option<Amount>, FieldError> {
    let refuse = |problem| Err(FieldError::new("linux.resources.memory.swap", problem));
    let limit = memory.limit.filter(|&limit| limit > 0);
    match (memory.swap.filter(|&swap| swap != 0), limit) {
        (None, _) => Ok(None),
        (Some(..0), _) => Ok(Some(Amount::Max)),
        (Some(_), None) => refuse("needs linux.resources.memory.limit, as it is the sum of both"),
        (Some(both), Some(limit)) if both < limit => refuse("is less than linux.resources.memory.limit"),
        (Some(both), Some(limit)) => Ok(Some(Amount::from_signed(both - limit))),
    }
}

fn list(text: &str, field: &str) -> Result<Option<CpuList>, FieldError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|problem| FieldError::new(field, format!("{text:?} {problem}")))
}

fn io_settings(io: &BlockIo) -> Result<Vec<Setting>, FieldError> {
    let setting = |file, value, field: String| Setting {
        file,
        value,
        field: Some(format!("linux.resources.blockIO.{field}")),
    };
    let mut all = Vec::new();
    for weight in io.weight.iter().filter(|&&weight| weight > 0) {
        let value = format!("default {}", weight_of_io(*weight, "weight")?);
        all.push(setting("io.weight", value, "weight".to_owned()));
    }
    for (index, device) in io.weight_device.iter().enumerate() {
        let field = format!("weightDevice[{index}]");
        if let Some(weight) = device.weight.filter(|&weight| weight > 0) {
            let weight = weight_of_io(weight, &field)?;
            let value = format!("{}:{} {weight}", device.major, device.minor);
            all.push(setting("io.weight", value, field));
        }
    }
    for (rates, key, field) in [
        (&io.throttle_read_bps_device, "rbps", "throttleReadBpsDevice"),
        (&io.throttle_write_bps_device, "wbps", "throttleWriteBpsDevice"),
        (&io.throttle_read_iops_device, "riops", "throttleReadIOPSDevice"),
        (&io.throttle_write_iops_device, "wiops", "throttleWriteIOPSDevice"),
    ] {
        for (index, device) in rates.iter().enumerate() {
            let rate = match device.rate {
                0 => Amount::Max,
                rate => Amount::Of(rate),
            };
            let value = format!("{}:{} {key}={rate}", device.major, device.minor);
            all.push(setting("io.max", value, format!("{field}[{index}]")));
        }
    }
    Ok(all)
}

/// From 10 to 1000 in version 1, from 1 to 10000 in version 2.
fn weight_of_io(weight: u16, field: &str) -> Result<u64, FieldError> {
    if (10..=1000).contains(&weight) {
        Ok(1 + (u64::from(weight) - 10) * 9999 / 990)
    } else {
        let problem = format!("{weight} is not between 10 and 1000");
        Err(FieldError::new(
            format!("linux.resources.blockIO.{field}"),
            problem,
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(resources: Value) -> Result<Limits, String> {
        let resources: Resources = serde_json::from_value(resources).expect("well-formed");
        Limits::of(&resources).map_err(|e| e.to_string())
    }

    fn lines(resources: Value) -> Vec<String> {
        let limits = limits(resources).expect("valid");
        let settings = limits.settings();
        settings
            .iter()
            .filter(|setting| setting.field.is_some())
            .map(|setting| format!("{}={}", setting.file, setting.value))
            .collect()
    }

    #[test]
    fn memory_is_the_guests_and_what_it_takes_to_run_it() {
        let limits = limits(json!({})).expect("valid");
        assert_eq!(limits.memory, None);
        let limits = limits.with_memory(&Config::default(), 256);
        let overhead = u64::from(Config::default().host_overhead_mib);
        assert_eq!(limits.memory, Some((256 + 2 + overhead) * MIB));
        let unlimited = Config {
            host_overhead_mib: 0,
            ..Config::default()
        };
        assert_eq!(memory_of(&unlimited, 256), None);
        assert!(memory_of(&Config::default(), u32::MAX).is_some_and(|bytes| bytes > 1 << 52));
    }

    #[test]
    fn swap_is_counted_apart() {
        assert_eq!(
            lines(json!({"memory": {"limit": 100, "swap": 300}})),
            ["memory.swap.max=200"]
        );
        assert_eq!(
            lines(json!({"memory": {"limit": 100, "swap": 100}})),
            ["memory.swap.max=0"]
        );
        assert_eq!(lines(json!({"memory": {"swap": -1}})), ["memory.swap.max=max"]);
        assert_eq!(
            limits(json!({"memory": {"limit": 100, "swap": 50}})),
            Err("linux.resources.memory.swap: is less than linux.resources.memory.limit".to_owned())
        );
    }

    #[test]
    fn processors_are_limited() {
        assert_eq!(
            lines(
                json!({"cpu": {"shares": 1024, "quota": 50000, "period": 200_000, "burst": 1, "cpus": "0-1", "mems": "0"}})
            ),
            [
                "cpu.weight=100",
                "cpu.max=50000 200000",
                "cpu.max.burst=1",
                "cpuset.cpus=0-1",
                "cpuset.mems=0"
            ]
        );
        assert_eq!(
            lines(json!({"cpu": {"idle": 1, "shares": 9, "quota": -1}})),
            ["cpu.idle=1", "cpu.max=max 100000"]
        );
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 100, 10_000]);
        assert!(limits(json!({"cpu": {"cpus": "3-1"}})).is_err());
    }

    #[test]
    fn block_devices_are_limited() {
        assert_eq!(
            lines(json!({"blockIO": {
                "weight": 1000,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1000}],
                "throttleWriteIOPSDevice": [{"major": 254, "minor": 16, "rate": 0}],
            }})),
            [
                "io.weight=default 10000",
                "io.weight=8:0 1",
                "io.max=254:0 rbps=1000",
                "io.max=254:16 wiops=max"
            ]
        );
        assert_eq!(
            limits(json!({"blockIO": {"weight": 5}})),
            Err("linux.resources.blockIO.weight: 5 is not between 10 and 1000".to_owned())
        );
    }

    #[test]
    fn who_joins_a_sandbox_does_not_limit_it() {
        let joined = |resources: Value| {
            let resources = serde_json::from_value(resources).expect("well-formed");
            Limits::of_joined(&resources).map_err(|e| e.field)
        };
        let own = json!({"memory": {"limit": 1 << 20}, "cpu": {"quota": 5}});
        assert_eq!(joined(own), Ok(Limits::default()));
        assert_eq!(
            joined(json!({"cpu": {"cpus": "0"}})),
            Err("linux.resources.cpu.cpus".to_owned())
        );
        assert_eq!(
            joined(json!({"blockIO": {"weight": 10}})),
            Err("linux.resources.blockIO".to_owned())
        );
    }
}
