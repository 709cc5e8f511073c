//! A container's figures in the words of `runc events`, from the files of its cgroup (version 2) in the guest.

use std::collections::BTreeMap;

use bulkhead_agent_protocol::messages::CgroupFile;
use serde::Serialize;

use super::{CgroupFiles, Counts};

/// All figures of a container.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    cpu: Cpu,
    cpuset: CpuSet,
    memory: Memory,
    pids: Pids,
    blkio: BlockIo,
    hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: Empty,
    network_interfaces: Option<Empty>,
}

/// Processor time in nanoseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

/// Flags of cgroup version 1, which readers expect to be there.
#[derive(Debug, Default, PartialEq, Serialize)]
struct CpuSet {
    cpu_exclusive: u64,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

/// In bytes.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlockIoEntry>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct BlockIoEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    op: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    failcnt: u64,
}

/// An object without members.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Empty {}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Stats {
    /// Of a cgroup with these files. A file that is not there has nothing to say.
    pub fn of(files: Vec<CgroupFile>) -> Self {
        let files = CgroupFiles::new(files);
        Self {
            cpu: Cpu::of(&files.counts("cpu.stat")),
            memory: Memory::of(&files),
            pids: Pids {
                current: files.value("pids.current"),
                limit: files.value("pids.max"),
            },
            blkio: BlockIo::of(&files),
            hugetlb: huge_pages(&files),
            ..Self::default()
        }
    }
}

impl Cpu {
    fn of(stat: &Counts) -> Self {
        let count = |key: &str| stat.get(key);
        let nanos = |key: &str| count(key).saturating_mul(1000);
        Self {
            usage: CpuUsage {
                total: nanos("usage_usec"),
                kernel: nanos("system_usec"),
                user: nanos("user_usec"),
            },
            throttling: Throttling {
                periods: count("nr_periods"),
                throttled_periods: count("nr_throttled"),
                throttled_time: nanos("throttled_usec"),
            },
        }
    }
}

impl Memory {
    fn of(files: &CgroupFiles) -> Self {
        let stat = files.counts("memory.stat");
        let usage = MemoryEntry {
            limit: files.limit("memory.max"),
            usage: files.value("memory.current"),
            max: files.value("memory.peak"),
            failcnt: files.counts("memory.events").get("max"),
        };
        Self {
            cache: stat.get("file"),
            // The kernel counts swap apart, and readers expect it with memory.
            swap: MemoryEntry {
                limit: files.limit("memory.swap.max").saturating_add(usage.limit),
                usage: files.value("memory.swap.current").saturating_add(usage.usage),
                ..MemoryEntry::default()
            },
            usage,
            raw: stat.0,
            ..Self::default()
        }
    }
}

impl BlockIo {
    fn of(files: &CgroupFiles) -> Self {
        let mut all = Self::default();
        for device in files.devices() {
            for (key, value) in device.counts {
                let (list, op) = match key {
                    "rbytes" => (&mut all.io_service_bytes_recursive, "Read"),
                    "wbytes" => (&mut all.io_service_bytes_recursive, "Write"),
                    "dbytes" => (&mut all.io_service_bytes_recursive, "Discard"),
                    "rios" => (&mut all.io_serviced_recursive, "Read"),
                    "wios" => (&mut all.io_serviced_recursive, "Write"),
                    "dios" => (&mut all.io_serviced_recursive, "Discard"),
                    _ => continue,
                };
                list.push(BlockIoEntry {
                    major: device.major,
                    minor: device.minor,
                    op,
                    value,
                });
            }
        }
        all
    }
}

fn huge_pages(files: &CgroupFiles) -> BTreeMap<String, HugePages> {
    let pages = |size: &str| HugePages {
        usage: files.value(&format!("hugetlb.{size}.current")),
        failcnt: files.counts(&format!("hugetlb.{size}.events")).get("max"),
    };
    let sizes = files.huge_page_sizes();
    sizes.map(|size| (size.to_owned(), pages(size))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn stats(files: &[(&str, &str)]) -> Value {
        let file = |(name, content): &(&str, &str)| CgroupFile {
            name: (*name).to_owned(),
            content: (*content).to_owned(),
            ..CgroupFile::default()
        };
        serde_json::to_value(Stats::of(files.iter().map(file).collect())).expect("serialisable")
    }

    #[test]
    fn figures_are_where_readers_look_for_them() {
        let stats = stats(&[
            (
                "cpu.stat",
                "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nnr_throttled 1\nthrottled_usec 9\n",
            ),
            ("memory.current", "1000\n"),
            ("memory.max", "4000\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "500\n"),
            ("memory.events", "low 0\nmax 7\noom 1\n"),
            ("memory.stat", "anon 300\nfile 200\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "254:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\nunknown\n",
            ),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.events", "max 3\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ]);
        assert_eq!(
            stats["cpu"],
            json!({
                "usage": {"total": 5000, "kernel": 2000, "user": 3000},
                "throttling": {"periods": 4, "throttledPeriods": 1, "throttledTime": 9000},
            })
        );
        assert_eq!(
            stats["memory"],
            json!({
                "cache": 200,
                "usage": {"limit": 4000, "usage": 1000, "failcnt": 7},
                "swap": {"limit": 4500, "usage": 1010, "failcnt": 0},
                "kernel": {"limit": 0, "failcnt": 0},
                "kernelTCP": {"limit": 0, "failcnt": 0},
                "raw": {"anon": 300, "file": 200},
            })
        );
        assert_eq!(stats["pids"], json!({"current": 2}));
        assert_eq!(
            stats["blkio"]["ioServiceBytesRecursive"][0],
            json!({"major": 254, "minor": 16, "op": "Read", "value": 4096})
        );
        assert_eq!(
            stats["blkio"]["ioServicedRecursive"][2],
            json!({"major": 254, "minor": 16, "op": "Discard"})
        );
        assert_eq!(stats["hugetlb"], json!({"2MB": {"failcnt": 3}}));
        assert_eq!(stats["intel_rdt"], json!({}));
        assert_eq!(stats["network_interfaces"], Value::Null);
    }

    #[test]
    fn no_limit_is_the_largest_number() {
        let stats = stats(&[("memory.max", "max\n"), ("memory.swap.max", "max\n")]);
        assert_eq!(stats["memory"]["usage"]["limit"], json!(u64::MAX));
        assert_eq!(stats["memory"]["swap"]["limit"], json!(u64::MAX));
    }

    proptest! {
        #[test]
        fn anything_a_guest_says_is_read(name in "cpu.stat|io.stat|memory.stat|hugetlb\\.[a-z.]{0,9}", content in "([a-z0-9:=. ]{0,20}\n?){0,4}|\\PC{0,20}") {
            let _ = stats(&[(&name, &content)]);
        }
    }
}
