//! What is measured.

use super::floor;
use super::plan::{Experiment, Running, Start, Until};

/// How often each.
const RUNS: usize = 5;

/// Memory of every guest, MiB.
pub const GUEST_MEMORY_MIB: u32 = 128;

/// The guest's command line, the devices apart, which each VMM adds.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t noreplace-smp swiotlb=noforce \
     dummy.numdummies=0 rootfstype=ramfs";

/// Where the archive has things.
pub mod paths {
    /// The guest that only prints.
    pub const FLOOR: &str = "/guest/floor";
    /// The guest's kernel.
    pub const KERNEL: &str = "/guest/vmlinux";
    /// The guest's initramfs.
    pub const INITRAMFS: &str = "/guest/initramfs.cpio";
    /// bulkhead's configuration.
    pub const CONFIG: &str = "/guest/config.toml";
    /// A bundle that runs `true`.
    pub const TRUE: &str = "/bundle/true";
    /// A bundle that says `up` and stays.
    pub const STAYS: &str = "/bundle/stays";
}

/// What a bundle that stays prints.
pub const UP: &str = "container is up";

/// What a row of the report is about.
pub mod rows {
    /// From the VMM's start until a guest that only prints has printed.
    pub const FLOOR: &str = "VMM floor";
    /// From the VMM's start until the agent is ready.
    pub const READY: &str = "process start to agent ready";
    /// A whole container.
    pub const RUN: &str = "`run` of `true`, exec to exit";
    /// Until a container's first output.
    pub const OUTPUT: &str = "`run`, exec to the container's first output";
    /// A further program in a container that runs.
    pub const EXEC: &str = "`exec` of `true` in a running container, exec to exit";
    /// What starting any process takes.
    pub const PROCESS: &str = "fork and exec of a static `true`";
}

/// Everything, in order. Names are `row|subject`.
pub fn all() -> Vec<Experiment> {
    let vmm = |kernel: &str, initramfs: Option<&str>| Start::Vmm {
        kernel: kernel.into(),
        initramfs: initramfs.map(str::to_owned),
        command_line: COMMAND_LINE.into(),
        memory_mib: GUEST_MEMORY_MIB,
    };
    let printed = |text: &str| Until::Printed(text.into());
    let mut all = vec![
        experiment(rows::PROCESS, "Linux", command(&["busybox", "true"]), Until::Exit),
        experiment(
            rows::FLOOR,
            "bulkhead",
            vmm(paths::FLOOR, None),
            printed(floor::TEXT),
        ),
        experiment(
            rows::FLOOR,
            "QEMU microvm",
            microvm(paths::FLOOR, None),
            printed(floor::TEXT),
        ),
        experiment(
            rows::READY,
            "bulkhead",
            vmm(paths::KERNEL, Some(paths::INITRAMFS)),
            Until::AgentDialled,
        ),
        experiment(
            rows::READY,
            "QEMU microvm",
            microvm(paths::KERNEL, Some(paths::INITRAMFS)),
            Until::AgentDialled,
        ),
    ];
    let bulkhead = ["bulkhead", "--config", paths::CONFIG];
    for (subject, runtime) in [
        ("bulkhead", &bulkhead[..]),
        ("runc", &["runc"]),
        ("crun", &["crun"]),
    ] {
        let run = |bundle| command(&[runtime, &["run", "--bundle", bundle, "bench-{run}"]].concat());
        all.push(experiment(rows::RUN, subject, run(paths::TRUE), Until::Exit));
        all.push(experiment(rows::OUTPUT, subject, run(paths::STAYS), printed(UP)));
        // Not an id of those that have been killed.
        let container = command(&[runtime, &["run", "--bundle", paths::STAYS, "exec-{run}"]].concat());
        let exec = command(&[runtime, &["exec", "exec-{run}", "true"]].concat());
        all.push(Experiment {
            beside: Some(Running {
                start: container,
                printed: UP.into(),
            }),
            ..experiment(rows::EXEC, subject, exec, Until::Exit)
        });
    }
    all
}

fn experiment(row: &str, subject: &str, start: Start, until: Until) -> Experiment {
    Experiment {
        name: format!("{row}|{subject}"),
        beside: None,
        start,
        until,
        runs: RUNS,
    }
}

fn command(args: &[&str]) -> Start {
    Start::Command {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
    }
}

/// QEMU's smallest machine, without what it can do without, and with the devices that bulkhead's VMM has.
fn microvm(kernel: &str, initramfs: Option<&str>) -> Start {
    let memory = GUEST_MEMORY_MIB.to_string();
    let mut args = vec![
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ];
    args.extend([
        "-M",
        "microvm,accel=kvm,acpi=off,x-option-roms=off,rtc=off,isa-serial=on",
        "-cpu",
        "host",
    ]);
    args.extend(["-smp", "1", "-m", &memory, "-serial", "stdio"]);
    args.extend([
        "-device",
        "vhost-vsock-device,guest-cid=3",
        "-device",
        "virtio-rng-device",
    ]);
    args.extend(["-kernel", kernel, "-append", COMMAND_LINE]);
    if let Some(initramfs) = initramfs {
        args.extend(["-initrd", initramfs]);
    }
    command(&args)
}
