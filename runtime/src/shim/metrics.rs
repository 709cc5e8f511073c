//! A container's figures as containerd wants them: those of its cgroup (version 2) in the guest.

use std::time::SystemTime;

use bulkhead_agent_protocol::messages::CgroupFile;
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats, PidsStat,
};
use protobuf::{
    MessageField,
    well_known_types::{any::Any, timestamp::Timestamp},
};

use crate::container::{CgroupFiles, DeviceCounts, number};

/// The name of the message.
const NAME: &str = "io.containerd.cgroups.v2.Metrics";

/// A time as protobuf has it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    }
}

/// The figures of a cgroup with these files.
///
/// # Errors
/// They cannot be encoded.
pub fn encode(files: Vec<CgroupFile>) -> protobuf::Result<Any> {
    Ok(Any {
        type_url: NAME.to_owned(),
        value: protobuf::Message::write_to_bytes(&Files(CgroupFiles::new(files)).metrics())?,
        ..Any::default()
    })
}

/// The files of the cgroup.
struct Files(CgroupFiles);

impl Files {
    fn metrics(&self) -> Metrics {
        Metrics {
            pids: MessageField::some(PidsStat {
                current: self.0.value("pids.current"),
                limit: self.0.value("pids.max"),
                ..PidsStat::default()
            }),
            cpu: MessageField::some(self.cpu()),
            memory: MessageField::some(self.memory()),
            io: MessageField::some(IOStat {
                usage: self.0.devices().map(device).collect(),
                psi: self.pressure("io.pressure"),
                ..IOStat::default()
            }),
            hugetlb: self.huge_pages(),
            memory_events: MessageField::some(self.memory_events()),
            ..Metrics::default()
        }
    }

    fn cpu(&self) -> CPUStat {
        let stat = self.0.counts("cpu.stat");
        let count = |key| stat.get(key);
        CPUStat {
            usage_usec: count("usage_usec"),
            user_usec: count("user_usec"),
            system_usec: count("system_usec"),
            nr_periods: count("nr_periods"),
            nr_throttled: count("nr_throttled"),
            throttled_usec: count("throttled_usec"),
            nr_bursts: count("nr_bursts"),
            burst_usec: count("burst_usec"),
            psi: self.pressure("cpu.pressure"),
            ..CPUStat::default()
        }
    }

    fn memory(&self) -> MemoryStat {
        let stat = self.0.counts("memory.stat");
        let count = |key| stat.get(key);
        MemoryStat {
            anon: count("anon"),
            file: count("file"),
            kernel_stack: count("kernel_stack"),
            slab: count("slab"),
            sock: count("sock"),
            shmem: count("shmem"),
            file_mapped: count("file_mapped"),
            file_dirty: count("file_dirty"),
            file_writeback: count("file_writeback"),
            anon_thp: count("anon_thp"),
            inactive_anon: count("inactive_anon"),
            active_anon: count("active_anon"),
            inactive_file: count("inactive_file"),
            active_file: count("active_file"),
            unevictable: count("unevictable"),
            slab_reclaimable: count("slab_reclaimable"),
            slab_unreclaimable: count("slab_unreclaimable"),
            pgfault: count("pgfault"),
            pgmajfault: count("pgmajfault"),
            workingset_refault: count("workingset_refault_anon")
                .saturating_add(count("workingset_refault_file")),
            workingset_activate: count("workingset_activate_anon")
                .saturating_add(count("workingset_activate_file")),
            workingset_nodereclaim: count("workingset_nodereclaim"),
            pgrefill: count("pgrefill"),
            pgscan: count("pgscan"),
            pgsteal: count("pgsteal"),
            pgactivate: count("pgactivate"),
            pgdeactivate: count("pgdeactivate"),
            pglazyfree: count("pglazyfree"),
            pglazyfreed: count("pglazyfreed"),
            thp_fault_alloc: count("thp_fault_alloc"),
            thp_collapse_alloc: count("thp_collapse_alloc"),
            usage: self.0.value("memory.current"),
            usage_limit: self.0.limit("memory.max"),
            swap_usage: self.0.value("memory.swap.current"),
            swap_limit: self.0.limit("memory.swap.max"),
            max_usage: self.0.value("memory.peak"),
            swap_max_usage: self.0.value("memory.swap.peak"),
            psi: self.pressure("memory.pressure"),
            ..MemoryStat::default()
        }
    }

    fn memory_events(&self) -> MemoryEvents {
        let stat = self.0.counts("memory.events");
        let count = |key| stat.get(key);
        MemoryEvents {
            low: count("low"),
            high: count("high"),
            max: count("max"),
            oom: count("oom"),
            oom_kill: count("oom_kill"),
            oom_group_kill: count("oom_group_kill"),
            ..MemoryEvents::default()
        }
    }

    fn huge_pages(&self) -> Vec<HugeTlbStat> {
        let pages = |size: &str| HugeTlbStat {
            current: self.0.value(&format!("hugetlb.{size}.current")),
            max: self.0.limit(&format!("hugetlb.{size}.max")),
            failcnt: self.0.counts(&format!("hugetlb.{size}.events")).get("max"),
            pagesize: size.to_owned(),
            ..HugeTlbStat::default()
        };
        self.0.huge_page_sizes().map(pages).collect()
    }

    /// Of lines like `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; none if the kernel does not count it.
    fn pressure(&self, name: &str) -> MessageField<PSIStats> {
        let line = |kind| self.0.text(name).lines().find_map(|line| pressure(line, kind));
        match (line("some"), line("full")) {
            (None, None) => MessageField::none(),
            (some, full) => MessageField::some(PSIStats {
                some: some.into(),
                full: full.into(),
                ..PSIStats::default()
            }),
        }
    }
}

fn pressure(line: &str, kind: &str) -> Option<PSIData> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some(kind) {
        return None;
    }
    let mut data = PSIData::default();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let average = || value.parse().unwrap_or_default();
        match key {
            "avg10" => data.avg10 = average(),
            "avg60" => data.avg60 = average(),
            "avg300" => data.avg300 = average(),
            "total" => data.total = number(value).unwrap_or_default(),
            _ => {}
        }
    }
    Some(data)
}

fn device(device: DeviceCounts<'_>) -> IOEntry {
    let mut entry = IOEntry {
        major: device.major,
        minor: device.minor,
        ..IOEntry::default()
    };
    for (key, value) in device.counts {
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protobuf::Message;

    use super::*;

    fn metrics(files: &[(&str, &str)]) -> Metrics {
        let file = |(name, content): &(&str, &str)| CgroupFile {
            name: (*name).to_owned(),
            content: (*content).to_owned(),
            ..CgroupFile::default()
        };
        let any = encode(files.iter().map(file).collect()).expect("encodable");
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        Metrics::parse_from_bytes(&any.value).expect("valid")
    }

    #[test]
    fn figures_are_where_containerd_looks_for_them() {
        let metrics = metrics(&[
            (
                "cpu.stat",
                "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 1\n",
            ),
            ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "max\n"),
            (
                "memory.stat",
                "anon 300\nworkingset_refault_anon 1\nworkingset_refault_file 2\n",
            ),
            ("memory.events", "low 0\noom 2\noom_kill 1\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "254:16 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0\nunknown\n",
            ),
            ("hugetlb.2MB.current", "4\n"),
            ("hugetlb.2MB.rsvd.current", "4\n"),
        ]);
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.nr_throttled), (5, 1));
        assert_eq!((metrics.cpu.psi.some.avg10, metrics.cpu.psi.some.total), (1.5, 7));
        assert_eq!(
            (metrics.memory.usage, metrics.memory.usage_limit),
            (1000, u64::MAX)
        );
        assert_eq!((metrics.memory.anon, metrics.memory.workingset_refault), (300, 3));
        assert_eq!(
            (metrics.memory_events.oom, metrics.memory_events.oom_kill),
            (2, 1)
        );
        assert_eq!((metrics.pids.current, metrics.pids.limit), (2, 0));
        let [device] = metrics.io.usage.as_slice() else {
            panic!("one device");
        };
        assert_eq!(
            (device.major, device.minor, device.rbytes, device.wios),
            (254, 16, 4096, 3)
        );
        let [pages] = metrics.hugetlb.as_slice() else {
            panic!("one size");
        };
        assert_eq!((pages.pagesize.as_str(), pages.current), ("2MB", 4));
        assert!(metrics.memory.psi.is_none());
    }

    proptest! {
        #[test]
        fn anything_a_guest_says_is_read(name in "cpu.stat|io.stat|cpu.pressure|hugetlb\\.[a-z.]{0,9}", content in "((some |full )?[a-z0-9:=. ]{0,20}\n?){0,4}|\\PC{0,20}") {
            let _ = metrics(&[(&name, &content)]);
        }
    }
}
