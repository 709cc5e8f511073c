//! `bulkhead update`

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Error, Global, Status};
use crate::{
    container::control::{Request, ask},
    oci::{changed_limits, parse_document},
    sandbox::Status as ContainerStatus,
};

/// The longest file with resources in bytes.
const MAX_LENGTH: u64 = 1 << 19;

/// Change the limits of a container
///
/// Sizes are bytes, or have a suffix: k, m, g, t, each 1024 times the one before. What is not given stays as it is. The
/// virtual machine gets the processors and the memory that higher limits need, up to max_vcpus and max_memory_mib of the
/// configuration.
#[derive(Debug, Args)]
pub struct Update {
    /// JSON file with the limits, like linux.resources of config.json; "-" is standard input. All other options are then
    /// ignored
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

/// The limits by their options.
#[derive(Debug, Default, Args)]
struct Limits {
    /// Share of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Period for the quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Processor time in a period, in microseconds; -1 is no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Processor time that may be saved up for later periods, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// Share of processor time, 2 to 262144
    #[arg(long, visible_alias = "cpu-shares", value_name = "SHARE")]
    cpu_share: Option<u64>,
    /// Refused: a limit of cgroup version 1
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    /// Refused: a limit of cgroup version 1
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// The host's processors that the virtual machine may use, as in 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The host's memory nodes that the virtual machine may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Refused: a limit of cgroup version 1
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    kernel_memory: Option<String>,
    /// Refused: a limit of cgroup version 1
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    kernel_memory_tcp: Option<String>,
    /// Memory; -1 is no limit
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory: Option<String>,
    /// Memory that is taken away last
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 is no limit
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory_swap: Option<String>,
    /// Processes; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Refused: the host's caches are not the guest's to share
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Refused: the host's memory bandwidth is not the guest's to share
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// Whether the container runs only when nobody else wants to: 0 or 1
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    cpu_idle: Option<i64>,
}

impl Update {
    pub fn execute(self, global: &Global) -> Status {
        let (folder, state) = global.container(self.id)?;
        let linux = match &self.resources {
            Some(file) => json!({"resources": read(file)?}),
            None => self.limits.into_linux()?,
        };
        match state.current_status() {
            ContainerStatus::Created | ContainerStatus::Running | ContainerStatus::Paused => {}
            _ => return Err(Error::NotRunning),
        }
        if !linux["resources"].is_object() {
            return Err(Error::Resources("is no object".to_owned()));
        }
        if let Some(resources) = changed_limits(&linux)? {
            ask(&folder, &Request::Update { resources })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads the limits that a file gives.
fn read(file: &Path) -> Result<Value, Error> {
    let failed = |problem: String| Error::Resources(format!("{}: {problem}", file.display()));
    let mut text = Vec::new();
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(file).map_err(|error| failed(error.to_string()))?)
    };
    let read = from.take(MAX_LENGTH + 1).read_to_end(&mut text);
    let length = read.map_err(|error| failed(error.to_string()))?;
    if length as u64 > MAX_LENGTH {
        return Err(failed(format!("longer than {MAX_LENGTH} bytes")));
    }
    parse_document(&text).map_err(|error| failed(format!("not valid JSON: {error}")))
}

impl Limits {
    /// The options that are given, as `linux` of `config.json`.
    fn into_linux(self) -> Result<Value, Error> {
        let size = |option, text: Option<String>| text.map(|text| parse_size(option, &text)).transpose();
        let memory = members([
            ("limit", size("--memory", self.memory)?.map(Value::from)),
            (
                "reservation",
                size("--memory-reservation", self.memory_reservation)?.map(Value::from),
            ),
            ("swap", size("--memory-swap", self.memory_swap)?.map(Value::from)),
            (
                "kernel",
                size("--kernel-memory", self.kernel_memory)?.map(Value::from),
            ),
            (
                "kernelTCP",
                size("--kernel-memory-tcp", self.kernel_memory_tcp)?.map(Value::from),
            ),
        ]);
        let cpu = members([
            ("shares", self.cpu_share.map(Value::from)),
            ("quota", self.cpu_quota.map(Value::from)),
            ("period", self.cpu_period.map(Value::from)),
            ("burst", self.cpu_burst.map(Value::from)),
            ("realtimeRuntime", self.cpu_rt_runtime.map(Value::from)),
            ("realtimePeriod", self.cpu_rt_period.map(Value::from)),
            ("cpus", self.cpuset_cpus.map(Value::from)),
            ("mems", self.cpuset_mems.map(Value::from)),
            ("idle", self.cpu_idle.map(Value::from)),
        ]);
        let cache = members([
            ("l3CacheSchema", self.l3_cache_schema.map(Value::from)),
            ("memBwSchema", self.mem_bw_schema.map(Value::from)),
        ]);
        let resources = members([
            ("memory", memory),
            ("cpu", cpu),
            ("pids", members([("limit", self.pids_limit.map(Value::from))])),
            (
                "blockIO",
                members([("weight", self.blkio_weight.map(Value::from))]),
            ),
        ]);
        let linux = members([
            ("resources", Some(resources.unwrap_or_else(|| json!({})))),
            ("intelRdt", cache),
        ]);
        Ok(linux.unwrap_or_default())
    }
}

/// An object of the members that are given; none when none is.
fn members<const N: usize>(members: [(&str, Option<Value>); N]) -> Option<Value> {
    let given: Map<String, Value> = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    (!given.is_empty()).then_some(Value::Object(given))
}

/// Bytes, of a number with a suffix that each is 1024 times the one before; -1 stands for no limit.
fn parse_size(option: &'static str, text: &str) -> Result<i64, Error> {
    let wrong = || Error::Size {
        option,
        text: text.to_owned(),
    };
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, suffix) = lower.split_at(end);
    let shift = match suffix.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: i64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::{
        super::{Command, CommandLine},
        *,
    };

    fn linux(args: &[&str]) -> Value {
        let args = ["bulkhead", "update"].iter().chain(args).chain(&["c1"]);
        match CommandLine::try_parse_from(args).expect("valid").command {
            Some(Command::Update(update)) => update.limits.into_linux().expect("valid"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_fields_of_config_json() {
        assert_eq!(linux(&[]), json!({"resources": {}}));
        assert_eq!(
            linux(&[
                "--memory",
                "100m",
                "--memory-swap",
                "-1",
                "--cpu-quota",
                "-1",
                "--cpu-period",
                "50000",
                "--cpu-share",
                "512",
                "--cpuset-cpus",
                "0-1",
                "--pids-limit",
                "7",
                "--blkio-weight",
                "10",
                "--cpu-idle",
                "1",
            ]),
            json!({"resources": {
                "memory": {"limit": 104_857_600, "swap": -1},
                "cpu": {"quota": -1, "period": 50_000, "shares": 512, "cpus": "0-1", "idle": 1},
                "pids": {"limit": 7},
                "blockIO": {"weight": 10},
            }})
        );
        assert_eq!(
            linux(&["--l3-cache-schema", "L3:0=f"]),
            json!({"resources": {}, "intelRdt": {"l3CacheSchema": "L3:0=f"}})
        );
    }

    #[test]
    fn sizes_have_suffixes() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("2M", 2 << 20),
            ("3 GiB", 3 << 30),
            ("1tb", 1 << 40),
            ("-1", -1),
        ] {
            assert_eq!(parse_size("--memory", text).ok(), Some(size), "{text}");
        }
        for text in ["", "xx", "m", "1x", "-2", "9999999999999999999", "8388608t"] {
            let error = parse_size("--memory", text).expect_err(text).to_string();
            assert!(error.starts_with("invalid value for --memory"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_size_is_read_or_refused(text in "\\PC{0,12}|[0-9]{0,21}[a-zA-Z ]{0,4}") {
            let _ = parse_size("--memory", &text);
        }
    }
}
