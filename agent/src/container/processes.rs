//! The processes of a container, as a list of processes shows them.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime},
};

use bulkhead_agent_protocol::messages::ProcessInfo;
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};

use super::cgroup::Cgroup;

/// How much of one command line is told, in bytes.
const COMMAND: usize = 4096;
/// How much of all command lines together: an answer has to fit into a message of 4 MiB. The others are told by name.
const COMMANDS: usize = 2 << 20;

/// Every process in a cgroup and below, by pid.
///
/// # Errors
/// What reading the cgroup gives. A process that has ended meanwhile is left out.
pub fn list(cgroup: &Cgroup) -> io::Result<Vec<ProcessInfo>> {
    let mut pids = cgroup.processes()?;
    pids.sort_unstable();
    let boot = boot_time_nanos();
    let mut room = COMMANDS;
    let describe = |pid: i32| {
        let info = describe(pid, boot, COMMAND.min(room))?;
        room = room.saturating_sub(info.command.len());
        Some(info)
    };
    Ok(pids.into_iter().filter_map(describe).collect())
}

fn describe(pid: i32, boot: i64, room: usize) -> Option<ProcessInfo> {
    let folder = format!("/proc/{pid}");
    let stat = fs::read(format!("{folder}/stat")).ok()?;
    let stat = Stat::parse(&String::from_utf8_lossy(&stat))?;
    let arguments = arguments(&folder, room).ok()?;
    Some(ProcessInfo {
        pid: pid.cast_unsigned(),
        parent: stat.parent,
        uid: fs::metadata(&folder).ok()?.uid(),
        terminal: terminal(stat.terminal),
        started_at_nanos: boot.saturating_add_unsigned(nanos(stat.started)),
        cpu_nanos: nanos(stat.used),
        command: if arguments.is_empty() {
            format!("[{}]", stat.name)
        } else {
            arguments
        },
        ..ProcessInfo::default()
    })
}

/// Some fields of `/proc/<pid>/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    /// The number of its controlling terminal, as device numbers are written there; 0 without one.
    terminal: u32,
    /// Clock ticks in user and in kernel mode.
    used: u64,
    /// Clock ticks after the boot.
    started: u64,
}

impl Stat {
    /// The name may have anything in it, parentheses and line ends included.
    fn parse(text: &str) -> Option<Self> {
        let (front, rest) = text.rsplit_once(") ")?;
        let (_, name) = front.split_once(" (")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The state, the first one here, is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let ticks = |number| field(number)?.parse::<u64>().ok();
        Some(Self {
            name: name.chars().map(printable).collect(),
            parent: field(4)?.parse().ok()?,
            terminal: field(7)?.parse::<i32>().ok()?.cast_unsigned(),
            used: ticks(14)?.saturating_add(ticks(15)?),
            started: ticks(22)?,
        })
    }
}

/// The arguments, separated by spaces, of which programs may make anything.
fn arguments(folder: &str, room: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    let room = u64::try_from(room).unwrap_or(u64::MAX);
    File::open(format!("{folder}/cmdline"))?
        .take(room)
        .read_to_end(&mut bytes)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.chars().map(printable).collect())
}

fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// A terminal's name below `/dev`. Those of Unix 98, the only ones in containers, have eight majors from 136 on.
fn terminal(number: u32) -> String {
    let (major, minor) = (libc::major(number.into()), libc::minor(number.into()));
    match major {
        0 => String::new(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

fn nanos(ticks: u64) -> u64 {
    let per_second = clock_ticks_per_second().max(1);
    u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(per_second)).unwrap_or(u64::MAX)
}

/// When the guest was booted, by its clock.
fn boot_time_nanos() -> i64 {
    let up = clock_gettime(ClockId::Boottime);
    let up = Duration::new(
        u64::try_from(up.tv_sec).unwrap_or_default(),
        u32::try_from(up.tv_nsec).unwrap_or_default(),
    );
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.saturating_sub(up).as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_hides_no_field() {
        let text = "7 (a) 1 (\n) S 3 7 7 34817 -1 4194560 1 0 0 0 11 31 0 0 20 0 1 0 4242 0 0";
        let stat = Stat {
            name: "a) 1 ( ".to_owned(),
            parent: 3,
            terminal: 34817,
            used: 42,
            started: 4242,
        };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(terminal(34817), "pts/1");
        assert_eq!(terminal(0), "");
        assert_eq!(terminal(1024 + 64), "4:64");
    }

    #[test]
    fn this_process_is_described() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let info = describe(pid, boot_time_nanos(), 5).unwrap();
        assert_eq!(info.command.len(), 5);
        assert_eq!(info.uid, rustix::process::geteuid().as_raw());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let age = i64::try_from(now.as_nanos()).unwrap() - info.started_at_nanos;
        assert!((-1_000_000_000..600_000_000_000).contains(&age), "{age}");
        let named = describe(pid, 0, 0).unwrap();
        assert!(named.command.starts_with('[') && named.command.ends_with(']'));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_left(text in "[0-9]{1,3} \\([a-z()\\n ]{0,9}\\)( [0-9A-Z-]{1,21}){0,24}|\\PC{0,40}") {
            let _ = Stat::parse(&text);
        }
    }
}
