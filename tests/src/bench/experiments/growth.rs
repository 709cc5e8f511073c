//! How costs grow: with the number of sandboxes, with what is in an image, and with the machine's size.

use super::bundles::Bundle;
use super::commands::{Guest, command};
use super::{GUEST_MEMORY_MIB, Measurement, ROOT, UP, paths, start, subjects};
use crate::bench::plan::{Running, Start, Until};

/// How many sandboxes there are when the last one has started.
const SANDBOXES: [usize; 4] = [1, 10, 50, 200];

/// How many virtual processors machines have.
const PROCESSORS: [u8; 4] = [1, 2, 4, 8];

/// How much memory machines have, MiB.
const MEMORY: [u32; 5] = [GUEST_MEMORY_MIB, 512, 2048, 8192, 16384];

/// A root file system with a file of 2 GB, and one with a folder of 100,000 entries.
const LARGE: &str = "/bundle/large-root";
const CROWDED: &str = "/bundle/crowded-root";
const ENTRIES: u32 = 100_000;

const RUN_LARGE: &str = "/bundle/run-large";
const RUN_CROWDED: &str = "/bundle/run-crowded";
const LIST_CROWDED: &str = "/bundle/list-crowded";

/// How often each is measured.
const RUNS: usize = 1;

/// What a run in a large image may take, in milliseconds.
const LIMIT: u64 = 1000;

/// All of it, in order.
pub fn all() -> Vec<Measurement> {
    let mut all = Vec::new();
    for (subject, runtime) in [
        (subjects::BULKHEAD, &["bulkhead", "--config", paths::CONFIG][..]),
        (subjects::RUNC, &["runc"]),
    ] {
        all.extend(SANDBOXES.map(|count| nth(count, subject, runtime)));
        all.extend(images(subject, runtime));
    }
    for vcpus in PROCESSORS {
        let run = run(&["bulkhead", "--config", paths::CONFIG], &with_processors(vcpus));
        let row = format!("`run` of `true`, {vcpus} virtual processors");
        all.push(Measurement::new(&row, subjects::BULKHEAD, run, Until::Exit).runs(RUNS));
    }
    for memory in MEMORY {
        let start = Guest::PRODUCT.memory(memory).in_vmm();
        let row = format!("process start to agent ready, {memory} MiB of memory");
        let ready = Measurement::new(&row, subjects::BULKHEAD, start, Until::AgentDialled).runs(RUNS);
        all.push(ready.memory(format!("{memory} MiB of memory")));
    }
    all
}

/// What containers are run from.
pub fn bundles() -> Vec<Bundle> {
    let list = [paths::IO_IN_CONTAINER, "list", "/entries/folder-0000"];
    let mut bundles = start::bundles();
    bundles.extend([
        Bundle::new(RUN_LARGE, &["true"]).root(LARGE),
        Bundle::new(RUN_CROWDED, &["true"]).root(CROWDED),
        Bundle::new(LIST_CROWDED, &list).root(CROWDED),
    ]);
    bundles.extend(PROCESSORS.map(|vcpus| Bundle::new(with_processors(vcpus), &["true"]).vcpus(vcpus)));
    bundles
}

fn with_processors(vcpus: u8) -> String {
    format!("/bundle/processors-{vcpus}")
}

fn run(runtime: &[&str], bundle: &str) -> Start {
    command(&[runtime, &["run", "--bundle", bundle, "bench-{run}"]].concat())
}

/// The last of so many containers, each in a sandbox of its own.
fn nth(count: usize, subject: &str, runtime: &[&str]) -> Measurement {
    let (start, until) = (run(runtime, paths::STAYS), Until::Printed(UP.into()));
    let row = format!("`run`, exec to first output, the last of {count}");
    let measurement = Measurement::new(&row, subject, start.clone(), until.clone()).runs(RUNS);
    let others = Running {
        start,
        until,
        count: count - 1,
    };
    measurement
        .beside(others)
        .memory(format!("the last of {count} containers"))
}

fn images(subject: &str, runtime: &[&str]) -> [Measurement; 4] {
    let new = |row: &str, bundle, until| {
        Measurement::new(row, subject, run(runtime, bundle), until)
            .runs(RUNS)
            .limit(LIMIT)
    };
    [
        new("`run` of `true`, busybox alone", paths::TRUE, Until::Exit),
        new("`run` of `true`, an image of 2 GiB", RUN_LARGE, Until::Exit).after(&[
            format!("busybox cp -a {ROOT} {LARGE}"),
            format!("bulkhead-bench-io make-file {LARGE}/content 2048 --sparse"),
            format!("bulkhead-bench-io make-tree {LARGE}/tree 100 100"),
        ]),
        new(
            "`run` of `true`, beside a folder of 100,000 entries",
            RUN_CROWDED,
            Until::Exit,
        )
        .after(&crowded()),
        new(
            "listing a folder of 100,000 entries, each",
            LIST_CROWDED,
            Until::TookPrinted,
        )
        .after(&crowded())
        .each_of(ENTRIES),
    ]
}

fn crowded() -> [String; 2] {
    [
        format!("busybox cp -a {ROOT} {CROWDED}"),
        format!("bulkhead-bench-io make-tree {CROWDED}/entries 1 {ENTRIES}"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bundle_that_is_run_is_there() {
        let there: BTreeSet<String> = bundles().into_iter().map(|bundle| bundle.folder).collect();
        for measurement in all() {
            if let Start::Command { args } = &measurement.experiment.start
                && let Some(at) = args.iter().position(|arg| arg == "--bundle")
            {
                assert!(there.contains(&args[at + 1]), "{}", args[at + 1]);
            }
        }
    }
}
