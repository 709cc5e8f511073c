//! What input and output cost.

use bulkhead_bench_io::tcp;

use super::bundles::Bundle;
use super::commands::{Guest, command};
use super::{Measurement, paths, subjects};
use crate::bench::plan::{Running, Until};

/// A folder of L1's that containers have as a bind mount, and where disks are.
const DATA: &str = "/data";

/// Where the server is before there is a network.
const SERVER: &str = "0.0.0.0:7000";
/// The containers' network namespace.
const NETWORK: &str = "/run/netns/bench";

const MAKE_NAMESPACE: &[&str] = &["/opt/ip netns add bench"];

/// A veth pair from L1 to the containers' namespace, new for each run: one that was killed has left its redirects.
const MAKE_NETWORK: &[&str] = &[
    "/opt/ip link delete bench0 2>/dev/null",
    "/opt/ip link add bench0 type veth peer name eth0 netns bench",
    "/opt/ip address add 10.77.0.1/24 dev bench0",
    "/opt/ip link set bench0 up",
    "/opt/ip -n bench address add 10.77.0.2/24 dev eth0",
    "/opt/ip -n bench link set eth0 up",
];

/// What is read, and what is walked: 10 folders of 40 files. More would not tell more, and each turn to the host costs the emulator
/// a hundredth of a second.
const MAKE_DATA: &[&str] = &[
    "bulkhead-bench-io make-file /data/file 8",
    "bulkhead-bench-io make-tree /data/tree 10 40",
];
const ENTRIES: u32 = 10 + 10 * 40;

/// What is read from and written to as a disk.
const MAKE_DISK: &[&str] = &["bulkhead-bench-io make-file /data/disk 16"];
const DISK: &str = "/data/disk";

/// What a row of the report is about.
pub mod rows {
    /// The files are in L1's memory, the guest has not seen them.
    pub const READ: &str = "virtio-fs: sequential read, each MiB";
    /// The guest has them in its page cache.
    pub const READ_CACHED: &str = "virtio-fs: sequential read, cached, each MiB";
    /// Over what was there.
    pub const WRITE: &str = "virtio-fs: sequential write, each MiB";
    /// As above.
    pub const RANDOM_READ: &str = "virtio-fs: random read, each 4 KiB";
    /// As above.
    pub const RANDOM_READ_CACHED: &str = "virtio-fs: random read, cached, each 4 KiB";
    /// As above.
    pub const RANDOM_WRITE: &str = "virtio-fs: random write, each 4 KiB";
    /// The guest has not seen the tree.
    pub const WALK: &str = "virtio-fs: metadata storm, each entry";
    /// It has just seen it.
    pub const WALK_AGAIN: &str = "virtio-fs: metadata storm at once again, each entry";
    /// It has seen it so long ago that it asks again.
    pub const WALK_LATER: &str = "virtio-fs: metadata storm 2 s later, each entry";
    /// From the container to the host.
    pub const SEND: &str = "TCP by the tap: send, each MiB";
    /// From the host to the container.
    pub const RECEIVE: &str = "TCP by the tap: receive, each MiB";
    /// A byte there and one back.
    pub const ASK: &str = "TCP by the tap: question and answer";
    /// From the container to who started it.
    pub const OUTPUT: &str = "vsock: standard output, each MiB";
    /// From who started it to the container.
    pub const INPUT: &str = "vsock: standard input, each MiB";
    /// Not by the guest's page cache.
    pub const DISK_READ: &str = "virtio-blk: sequential read, each MiB";
    /// As above.
    pub const DISK_WRITE: &str = "virtio-blk: sequential write, each MiB";
    /// As above.
    pub const DISK_RANDOM_READ: &str = "virtio-blk: random read, each 4 KiB";
    /// As above.
    pub const DISK_RANDOM_WRITE: &str = "virtio-blk: random write, each 4 KiB";
}

/// What a container does.
struct Load {
    row: &'static str,
    /// The words after the program's name.
    words: &'static str,
    /// Of how many of what is shown.
    count: u32,
    how: How,
}

/// What it needs, and who takes the time.
#[derive(PartialEq)]
enum How {
    /// The data; itself.
    Files,
    /// A server; itself.
    Tcp,
    /// Its caller, who drains its standard output.
    Output,
    /// Itself, while its caller pours so many MiB into its standard input.
    Input(u32),
}

const LOADS: &[Load] = &[
    files(rows::READ, "read /data/file 1048576 8", 8),
    files(rows::READ_CACHED, "read /data/file 1048576 8 --cached", 8),
    files(rows::WRITE, "write /data/written 1048576 8", 8),
    files(rows::RANDOM_READ, "read /data/file 4096 128 --among 2048", 128),
    files(
        rows::RANDOM_READ_CACHED,
        "read /data/file 4096 2048 --among 2048 --cached",
        2048,
    ),
    files(
        rows::RANDOM_WRITE,
        "write /data/written 4096 128 --among 2048",
        128,
    ),
    files(rows::WALK, "walk /data/tree", ENTRIES),
    files(rows::WALK_AGAIN, "walk /data/tree --again", ENTRIES),
    files(rows::WALK_LATER, "walk /data/tree --again --after 2", ENTRIES),
    load(rows::SEND, "send 10.77.0.1:7000 8", 8, How::Tcp),
    load(rows::RECEIVE, "receive 10.77.0.1:7000 8", 8, How::Tcp),
    load(rows::ASK, "ask 10.77.0.1:7000 100", 100, How::Tcp),
    load(rows::OUTPUT, "pour 8", 8, How::Output),
    load(rows::INPUT, "drain", 8, How::Input(8)),
];

/// What the first program of a guest does with its disk.
const DISKS: &[(&str, &str, u32)] = &[
    (
        rows::DISK_READ,
        " rdinit=/bulkhead-bench-io read /dev/vda 1048576 16 --direct",
        16,
    ),
    (
        rows::DISK_WRITE,
        " rdinit=/bulkhead-bench-io write /dev/vda 1048576 16 --direct",
        16,
    ),
    (
        rows::DISK_RANDOM_READ,
        " rdinit=/bulkhead-bench-io read /dev/vda 4096 128 --among 4096 --direct",
        128,
    ),
    (
        rows::DISK_RANDOM_WRITE,
        " rdinit=/bulkhead-bench-io write /dev/vda 4096 128 --among 4096 --direct",
        128,
    ),
];

const fn files(row: &'static str, words: &'static str, count: u32) -> Load {
    load(row, words, count, How::Files)
}

const fn load(row: &'static str, words: &'static str, count: u32, how: How) -> Load {
    Load {
        row,
        words,
        count,
        how,
    }
}

/// All of it, in order.
pub fn all() -> Vec<Measurement> {
    let mut all = Vec::new();
    for (row, parameters, count) in DISKS {
        let guest = Guest::with_disk(DISK, parameters);
        for (subject, start) in [
            (subjects::BULKHEAD, guest.in_vmm()),
            (subjects::QEMU, guest.in_qemu()),
        ] {
            let measurement = Measurement::new(row, subject, start, Until::TookPrinted);
            all.push(measurement.after(MAKE_DISK).each_of(*count).runs(RUNS));
        }
    }
    for (number, load) in LOADS.iter().enumerate() {
        let ours = format!("bulkhead --config {}", paths::CONFIG);
        all.push(load.measure(number, subjects::BULKHEAD, &ours));
        all.push(load.measure(number, subjects::RUNC, "runc"));
    }
    all
}

/// How often each is measured.
const RUNS: usize = 1;

/// What a load may take, with its container's start and end, and one that waits two seconds; in milliseconds.
const SHORT: u64 = 500;
const LONG: u64 = SHORT + 2000;

/// A bundle for each load.
pub fn bundles() -> Vec<Bundle> {
    LOADS
        .iter()
        .enumerate()
        .map(|(number, load)| {
            let mut args = vec![paths::IO_IN_CONTAINER];
            args.extend(load.words.split(' '));
            let bundle = Bundle::new(folder(number), &args);
            match load.how {
                How::Files => bundle.bind(DATA),
                How::Tcp => bundle.network(NETWORK),
                How::Output | How::Input(_) => bundle,
            }
        })
        .collect()
}

fn folder(load: usize) -> String {
    format!("/bundle/io-{load}")
}

impl Load {
    fn measure(&self, number: usize, subject: &str, runtime: &str) -> Measurement {
        let run = format!("{runtime} run --bundle {} bench-{{run}}", folder(number));
        let run = match self.how {
            How::Files => run,
            How::Tcp => format!("{}; {run}", MAKE_NETWORK.join("; ")),
            How::Output => format!("{run} | {} drain", paths::IO),
            How::Input(mib) => format!("{} pour {mib} | {run}", paths::IO),
        };
        let start = command(&["busybox", "sh", "-c", &run]);
        let measurement = Measurement::new(self.row, subject, start, Until::TookPrinted)
            .each_of(self.count)
            .runs(RUNS)
            .limit(if self.row == rows::WALK_LATER { LONG } else { SHORT });
        match self.how {
            How::Files => measurement.after(MAKE_DATA),
            How::Tcp => measurement.after(MAKE_NAMESPACE).beside(Running {
                start: command(&[paths::IO, "serve", SERVER]),
                until: Until::Printed(tcp::LISTENING.into()),
                count: 1,
            }),
            How::Output | How::Input(_) => measurement,
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_bench_io::Operation;
    use clap::Parser;

    use super::*;

    #[test]
    fn the_program_understands_what_it_is_told() {
        let in_containers = LOADS.iter().map(|load| load.words);
        let in_guests = DISKS
            .iter()
            .map(|(_, parameters, _)| parameters.split_once("io ").expect("the program").1);
        for words in in_containers.chain(in_guests) {
            Operation::try_parse_from(["bulkhead-bench-io"].into_iter().chain(words.split(' ')))
                .unwrap_or_else(|error| panic!("{words}: {error}"));
        }
        for commands in [MAKE_DATA, MAKE_DISK] {
            for command in commands {
                Operation::try_parse_from(command.split(' ')).expect(command);
            }
        }
    }
}
