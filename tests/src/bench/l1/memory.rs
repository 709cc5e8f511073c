//! The memory of everything that was started.

use std::collections::BTreeSet;
use std::fs;

use super::processes;
use crate::bench::plan::Memory;

/// A writable mapping from this size on, KiB, is a guest's RAM: nothing else here has such.
const GUEST_RAM: u64 = 64 << 10;

/// How the names of shims begin, as far as the kernel keeps them.
const SHIM: &str = "containerd-shim";

/// Adds up all processes but those of `before`.
pub fn of_processes_since(before: &BTreeSet<u32>) -> Memory {
    processes::all()
        .difference(before)
        .filter_map(|pid| of_process(*pid))
        .fold(Memory::default(), |sum, process| Memory {
            host: sum.host + process.host,
            anonymous: sum.anonymous + process.anonymous,
            guest: sum.guest + process.guest,
            shim: sum.shim + process.shim,
        })
}

/// None of one that has ended.
fn of_process(pid: u32) -> Option<Memory> {
    let memory = of_mappings(&fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?);
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let shim = if name.starts_with(SHIM) { memory.host } else { 0 };
    Some(Memory { shim, ..memory })
}

/// Reads /proc/PID/smaps (proc_pid_smaps(5)).
fn of_mappings(smaps: &str) -> Memory {
    let mut memory = Memory::default();
    let mut writable = false;
    let mut guest_ram = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), value) = (words.next(), words.next().unwrap_or_default()) else {
            continue;
        };
        let kib: u64 = value.parse().unwrap_or(0);
        match key {
            "Size:" => guest_ram = writable && kib >= GUEST_RAM,
            "Pss:" if guest_ram => memory.guest += kib,
            "Pss:" => memory.host += kib,
            "Anonymous:" if !guest_ram => memory.anonymous += kib,
            _ if !key.ends_with(':') => writable = value.starts_with("rw"),
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_is_told_from_the_rest() {
        let smaps = "\
00400000-00500000 r-xp 00000000 00:01 7 /bin/vmm
Size:               1024 kB
Pss:                 300 kB
Pss_Dirty:             0 kB
Anonymous:             0 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0 [heap]
Size:               1024 kB
Pss:                  40 kB
Anonymous:            40 kB
7f1000000000-7f1008000000 rw-s 00000000 00:01 9 /memfd:guest (deleted)
Size:             131072 kB
Pss:               20000 kB
Anonymous:             0 kB
VmFlags: rd wr sh
";
        assert_eq!(
            of_mappings(smaps),
            Memory {
                host: 340,
                anonymous: 40,
                guest: 20000,
                shim: 0
            }
        );
    }
}
