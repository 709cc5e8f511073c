//! How long it takes until something runs, and the memory that takes.

use serde_json::json;

use super::bundles::Bundle;
use super::commands::{Guest, command};
use super::{Measurement, UP, paths, rows, subjects};
use crate::bench::floor;
use crate::bench::plan::{Running, Start, Until};

/// All of it, in order.
pub fn all() -> Vec<Measurement> {
    let linux = Measurement::new(
        rows::PROCESS,
        subjects::LINUX,
        command(&["busybox", "true"]),
        Until::Exit,
    );
    let mut all = vec![linux];
    all.extend(machines());
    for (subject, runtime) in [
        (subjects::BULKHEAD, &["bulkhead", "--config", paths::CONFIG][..]),
        (subjects::RUNC, &["runc"]),
        (subjects::CRUN, &["crun"]),
    ] {
        all.extend(containers(subject, runtime));
    }
    all.push(logged());
    all.extend(tasks());
    all
}

/// What containers are run from.
pub fn bundles() -> Vec<Bundle> {
    let stays = format!("echo {UP}; exec sleep 1000");
    let stays = ["sh", "-c", &stays];
    vec![
        Bundle::new(paths::TRUE, &["true"]),
        Bundle::new(paths::STAYS, &stays),
        Bundle::new(paths::POD, &stays).annotations(json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "{id}",
        })),
    ]
}

/// What the picture of a start is drawn from.
fn logged() -> Measurement {
    let logging = ["bulkhead", "--config", paths::CONFIG, "--log", paths::LOG];
    let json = ["--log-format", "json", "--debug"];
    let run = ["run", "--bundle", paths::TRUE, "bench-{run}"];
    let run = command(&[&logging[..], &json[..], &run[..]].concat());
    Measurement::new(rows::LOGGED, subjects::BULKHEAD, run, Until::Exit)
        .runs(1)
        .log(paths::LOG)
}

/// microVMs without a runtime around them.
fn machines() -> Vec<Measurement> {
    let printed = |text: &str| Until::Printed(text.into());
    let guests = [
        (rows::FLOOR, Guest::bare(paths::FLOOR), printed(floor::TEXT)),
        (rows::EXIT, Guest::bare(paths::EXITS), Until::TookPrinted),
        (rows::INIT, Guest::GREETER, printed(UP)),
        (rows::READY, Guest::PRODUCT, Until::AgentDialled),
    ];
    let mut all = Vec::new();
    for (row, guest, until) in guests {
        for (subject, start) in [
            (subjects::BULKHEAD, guest.in_vmm()),
            (subjects::QEMU, guest.in_qemu()),
        ] {
            let measurement = Measurement::new(row, subject, start, until.clone());
            all.push(match row {
                rows::EXIT => measurement.each_of(floor::EXITS).checked(),
                rows::FLOOR => measurement.memory("VMM, guest that only prints").checked(),
                rows::READY => measurement.memory("VMM, agent ready").checked(),
                _ => measurement,
            });
        }
    }
    all
}

fn containers(subject: &str, runtime: &[&str]) -> Vec<Measurement> {
    let run = |bundle| command(&[runtime, &["run", "--bundle", bundle, "bench-{run}"]].concat());
    let printed = Until::Printed(UP.into());
    // One that has been killed is known by its id still.
    let words = runtime.join(" ");
    let script = format!(
        "{words} delete --force exec 2>/dev/null; exec {words} run --bundle {} exec",
        paths::STAYS
    );
    let container = command(&["busybox", "sh", "-c", &script]);
    let exec = command(&[runtime, &["exec", "exec", "true"]].concat());
    vec![
        Measurement::new(rows::RUN, subject, run(paths::TRUE), Until::Exit).checked(),
        Measurement::new(rows::OUTPUT, subject, run(paths::STAYS), printed.clone())
            .memory("everything for one running container")
            .checked(),
        Measurement::new(rows::EXEC, subject, exec, Until::Exit)
            .beside(Running {
                start: container,
                until: printed,
                count: 1,
            })
            .runs(11)
            .checked(),
    ]
}

/// What containerd's shims start.
fn tasks() -> Vec<Measurement> {
    let task = |shim: &str, bundle: &str, config: Option<&str>| Start::Task {
        shim: shim.into(),
        bundle: bundle.into(),
        config: config.map(str::to_owned),
    };
    let ours = |bundle| task(paths::SHIM, bundle, Some(paths::CONFIG));
    let runcs = |bundle| task(paths::RUNC_SHIM, bundle, None);
    let new = |row, subject, start| Measurement::new(row, subject, start, Until::TaskRuns);
    let mut all = vec![
        new(rows::TASK, subjects::BULKHEAD, ours(paths::STAYS)).memory("everything for one task"),
        new(rows::TASK, subjects::RUNC, runcs(paths::STAYS)).memory("everything for one task"),
    ];
    for (subject, start) in [
        (subjects::BULKHEAD, ours(paths::POD)),
        (subjects::RUNC, runcs(paths::POD)),
    ] {
        let nine = Running {
            start: start.clone(),
            until: Until::TaskRuns,
            count: 9,
        };
        let tenth = new(rows::POD, subject, start).beside(nine).runs(1);
        all.push(tenth.memory("an idle pod, the 10th of 10"));
    }
    all
}
