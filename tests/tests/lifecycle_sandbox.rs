//! Several containers share a microVM when their annotations name the sandbox of the first.

use std::fs;

use bulkhead_tests::harness::{Bundle, Container, Host, processes};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::{Value, json};

/// CRI's annotations, and those of CRI-O and podman.
const CRI: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"];
const CRIO: [&str; 2] = [
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.cri-o.SandboxID",
];

fn annotated(config: &mut Value, family: [&str; 2], kind: &str, sandbox: &str) {
    config["annotations"][family[0]] = json!(kind);
    config["annotations"][family[1]] = json!(sandbox);
}

fn member(host: &Host, family: [&str; 2], sandbox: &str, script: &str) -> Bundle {
    host.bundle(|config| {
        annotated(config, family, "container", sandbox);
        config["process"]["args"] = json!(["sh", "-c", script]);
    })
}

/// A running container that owns a sandbox, which is called as the container and also `pod`.
fn owner(host: &Host) -> Container<'_> {
    let bundle = host.bundle(|config| {
        annotated(config, CRIO, "sandbox", "pod");
        config["process"]["args"] = json!(["sleep", "100000"]);
    });
    let owner = host.create(&bundle);
    owner.start();
    owner
}

fn killed(container: &Container) -> WaitStatus {
    WaitStatus::Signaled(container.pid, Signal::SIGKILL, false)
}

/// The mounts that a process has of a container.
fn mounts_of(process: Pid, id: &str) -> Vec<String> {
    let mounts = fs::read_to_string(processes::file(process, "mountinfo")).unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(id));
    mounts.map(str::to_owned).collect()
}

#[test]
fn containers_join_and_leave_while_others_go_on() {
    let host = Host::new();
    let owner = owner(&host);
    let vmm = processes::descendant_named(owner.pid, "bulkhead-vmm");
    let ids = "cat /proc/sys/kernel/random/boot_id";
    let first = host.create(&member(&host, CRIO, "pod", &format!("{ids}; exec sleep 100000")));
    let second = host.create(&member(&host, CRI, &owner.id, &format!("{ids}; exit 5")));
    first.start();
    second.start();
    assert_eq!(second.wait(), WaitStatus::Exited(second.pid, 5));
    assert_eq!(first.stdout(), second.stdout(), "one guest, booted once");
    assert_eq!(second.status(), "stopped");
    assert_eq!(mounts_of(vmm, &second.id), Vec::<String>::new());
    assert!(!mounts_of(vmm, &first.id).is_empty());
    second.delete();
    assert_eq!(
        (first.status(), owner.status()),
        ("running".into(), "running".into())
    );

    // Another one of the same name, and whatever becomes of the first.
    let second = host.create_as(&member(&host, CRI, &owner.id, "exec sleep 100000"), &second.id);
    second.start();
    first.kill("KILL");
    assert_eq!(first.wait(), killed(&first));
    first.delete();
    assert_eq!(
        (second.status(), owner.status()),
        ("running".into(), "running".into())
    );

    // The sandbox's end is that of all in it.
    owner.kill("KILL");
    assert_eq!(owner.wait(), killed(&owner));
    assert_eq!(second.wait(), killed(&second));
    assert_eq!(second.status(), "stopped");
    second.delete();
    owner.delete();
}

#[test]
fn what_a_killed_stand_in_leaves_in_a_sandbox_is_deleted() {
    let host = Host::new();
    let owner = owner(&host);
    let vmm = processes::descendant_named(owner.pid, "bulkhead-vmm");
    let bundle = member(&host, CRIO, &owner.id, "exec sleep 100000");
    let joined = host.create(&bundle);
    joined.start();
    kill(joined.pid, Signal::SIGKILL).unwrap();
    assert_eq!(joined.wait(), killed(&joined));
    assert!(!mounts_of(vmm, &joined.id).is_empty());
    let delete = |id: &str| host.bulkhead().args(["delete", "--force", id]).output().success();
    assert_eq!(delete(&joined.id), "");
    assert_eq!(mounts_of(vmm, &joined.id), Vec::<String>::new());
    let again = host.create_as(&bundle, &joined.id);
    assert_eq!(delete(&again.id), "");
    assert_eq!(again.wait(), killed(&again));
    assert_eq!(owner.status(), "running");
    assert_eq!(delete(&owner.id), "");
    assert_eq!(owner.wait(), killed(&owner));
}

#[test]
fn a_container_that_cannot_join_leaves_the_sandbox_alone() {
    let host = Host::new();
    let owner = owner(&host);
    let vmm = processes::descendant_named(owner.pid, "bulkhead-vmm");
    let create = |bundle: &Bundle, id: &str| {
        let create = host.bulkhead().args(["create", "--bundle"]).arg(bundle.folder());
        create.arg(id).output().refusal()
    };
    let refused = create(&member(&host, CRI, "nowhere", "true"), "joiner");
    assert!(
        refused.contains("annotations.io.kubernetes.cri.sandbox-id"),
        "{refused}"
    );
    assert!(refused.contains("nowhere"), "{refused}");
    let wrong = host.bundle(|config| {
        annotated(config, CRI, "container", &owner.id);
        config["process"]["cwd"] = json!("/bin/busybox");
    });
    let refused = create(&wrong, "joiner");
    assert!(refused.contains("/bin/busybox"), "{refused}");
    assert_eq!(mounts_of(vmm, "joiner"), Vec::<String>::new());
    let foreign = host.bundle(|config| {
        annotated(config, CRI, "container", &owner.id);
        config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}]);
    });
    let refused = create(&foreign, "joiner");
    assert!(refused.contains("linux.namespaces[1].path"), "{refused}");
    owner.kill("KILL");
    assert_eq!(owner.wait(), killed(&owner));
    let refused = create(&member(&host, CRI, &owner.id, "true"), "joiner");
    assert!(refused.contains("is stopped"), "{refused}");
    owner.delete();
}

#[test]
fn namespaces_of_a_container_in_the_sandbox_are_shared() {
    let host = Host::new();
    let owner = owner(&host);
    let bundle = host.bundle(|config| {
        annotated(config, CRIO, "container", &owner.id);
        let shared =
            |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{}/ns/{file}", owner.pid)});
        config["linux"]["namespaces"] =
            json!([{"type": "mount"}, shared("pid", "pid"), shared("uts", "uts")]);
        config.as_object_mut().unwrap().remove("hostname");
        config["process"]["args"] = json!(["sh", "-c", "ps -o args | grep -c '^sleep 100000'"]);
    });
    let joined = host.create(&bundle);
    joined.start();
    assert_eq!(
        joined.wait(),
        WaitStatus::Exited(joined.pid, 0),
        "{}",
        joined.stderr()
    );
    assert_eq!(joined.stdout(), "1\n");
    joined.delete();
    assert_eq!(owner.command("delete").arg("--force").output().success(), "");
    assert_eq!(owner.wait(), killed(&owner));
}
