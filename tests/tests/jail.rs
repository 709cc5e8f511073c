//! The VMM has nothing that it does not need.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bulkhead_tests::harness::{Host, Running, processes};
use nix::unistd::Pid;

/// CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP: to serve files as whoever
/// asks for them.
const FILE_SERVING: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 27 | 1 << 31;

fn start(host: &Host, id: &str) -> Running {
    let running = host.run_as(&host.script("echo ready; read x"), id).spawn();
    running.wait_for("ready");
    running
}

fn namespace(pid: Pid, kind: &str) -> String {
    let link = fs::read_link(processes::file(pid, &format!("ns/{kind}"))).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
fn the_vmm_is_jailed() {
    let host = Host::new();
    let id = host.new_id();
    let mut running = start(&host, &id);
    let vmm = running.vmm();

    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let mask = u64::from_str_radix(&processes::status_field(vmm, set), 16).unwrap();
        assert_eq!(mask & !FILE_SERVING, 0, "{set} is {mask:x}");
    }
    assert_eq!(processes::status_field(vmm, "NoNewPrivs"), "1");

    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        assert_ne!(
            namespace(vmm, kind),
            namespace(Pid::this(), kind),
            "the {kind} namespace"
        );
    }

    let cgroup = fs::read_to_string(processes::file(vmm, "cgroup")).unwrap();
    assert!(cgroup.trim_end().ends_with(&format!("/{id}")), "{cgroup}");

    let root = processes::file(vmm, "root");
    let seen: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        !seen
            .iter()
            .any(|name| name == "etc" || name == "usr" || name == "proc"),
        "{seen:?}"
    );
    let mounts = fs::read_to_string(processes::file(vmm, "mountinfo")).unwrap();
    let host_root = fs::metadata("/").unwrap();
    let vmm_root = fs::metadata(&root).unwrap();
    assert_ne!(
        (vmm_root.dev(), vmm_root.ino()),
        (host_root.dev(), host_root.ino())
    );
    let outside: Vec<_> = mounts
        .lines()
        .filter(|line| !line.contains(host.folder().file_name().unwrap().to_str().unwrap()))
        .filter(|line| !line.contains(" tmpfs "))
        .collect();
    assert!(
        outside.is_empty(),
        "mounts that are not the container's: {outside:#?}"
    );

    running.send("\n");
    running.wait().success();
}

/// Whether it is the VMM's /proc/self/fd, by which it opens again what it has.
fn is_own_descriptors(descriptor: &Path, vmm: Pid) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|status| (status.dev(), status.ino())).ok();
    identity(descriptor) == identity(&processes::file(vmm, "fd"))
}

#[test]
fn the_vmm_has_no_descriptor_that_it_does_not_need() {
    let host = Host::new();
    let mut running = start(&host, &host.new_id());
    let vmm = running.vmm();
    let mounts = fs::read_to_string(processes::file(vmm, "mountinfo")).unwrap();
    let own_mounts: BTreeSet<&str> = mounts.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut kvm = false;
    for entry in fs::read_dir(processes::file(vmm, "fd")).unwrap().flatten() {
        // Some come and go.
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let Ok(info) = fs::read_to_string(processes::file(vmm, "fdinfo").join(entry.file_name())) else {
            continue;
        };
        let target = target.to_str().unwrap();
        let mount = info
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:"))
            .unwrap_or_default()
            .trim();
        kvm |= target == "anon_inode:kvm-vm";
        let needed = match target.split_once(':') {
            Some(("pipe" | "socket", _)) => true,
            Some(("anon_inode", what)) => ["kvm-vm", "kvm-vcpu", "[event", "[signalfd]", "[timerfd]"]
                .iter()
                .any(|name| what.starts_with(name)),
            _ => {
                ["/dev/kvm", "/dev/null"].contains(&target)
                    || own_mounts.contains(mount)
                    || is_own_descriptors(&entry.path(), vmm)
            }
        };
        assert!(needed, "{target}, in mount {mount}");
    }
    assert!(kvm, "the descriptors of a VMM");
    // While it serves files, the kernel would stop it for each growth of the table.
    let room: u32 = processes::status_field(vmm, "FDSize").parse().expect("a number");
    assert!(room >= 4096, "room for {room}");
    running.send("\n");
    running.wait().success();
}
