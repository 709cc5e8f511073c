//! Pods of podman's, and the cgroups that systemd keeps for it.

use std::fs;
use std::net::Ipv4Addr;

use bulkhead_tests::harness::{PODMAN_IMAGE as IMAGE, Podman, page};

use super::{BOOT, SERVICE, format, tasks, wait_until_ready};

#[test]
fn the_containers_of_a_pod_share_a_machine() {
    let podman = Podman::new();
    // Podman gives a pod's cgroup a filter that denies every device when it manages cgroups itself.
    podman
        .podman([
            "pod",
            "create",
            "--name=pair",
            "--share-parent=false",
            "--publish=127.0.0.1:8080:80",
        ])
        .output()
        .with_code(0);
    let member = |name: &str, script: &str| {
        podman
            .podman([
                "run",
                "--detach",
                "--pod=pair",
                "--env=NAME=pod",
                "--name",
                name,
                IMAGE,
                "sh",
                "-c",
                script,
            ])
            .output()
            .with_code(0);
        wait_until_ready(&podman, name);
    };
    member("server", SERVICE);
    member("client", "echo ready; while :; do sleep 1000 & wait $!; done");
    let exec = |name: &str, script: &str| {
        podman
            .podman(["exec", name, "sh", "-c", script])
            .output()
            .success()
    };
    let same = format!(
        "cat {BOOT}; hostname; readlink /proc/self/ns/ipc; readlink /proc/self/ns/net; readlink /proc/self/ns/uts"
    );
    let server = exec("server", &same);
    assert_eq!(exec("client", &same), server, "one kernel, one set of namespaces");
    assert!(
        !server.starts_with(&fs::read_to_string(BOOT).unwrap()),
        "and not the host's"
    );
    assert!(server.contains("\npair\n"), "{server}");
    let own = "readlink /proc/self/ns/pid; readlink /proc/self/ns/mnt";
    assert_ne!(exec("client", own), exec("server", own));

    assert_eq!(
        exec("client", "wget -qO- http://127.0.0.1/page"),
        "hello from pod\n"
    );
    assert!(page((Ipv4Addr::LOCALHOST, 8080)).ends_with("hello from pod\n"));
    exec("client", "echo shared > /dev/shm/note");
    assert_eq!(exec("server", "cat /dev/shm/note"), "shared\n");

    podman
        .podman(["stop", "--time=60", "server"])
        .output()
        .with_code(0);
    assert_eq!(format(&podman, "server", "{{.State.ExitCode}}"), "3");
    assert_eq!(exec("client", "echo still here"), "still here\n");
    podman
        .podman(["pod", "rm", "--force", "--time=0", "pair"])
        .output()
        .with_code(0);
}

#[test]
fn systemd_keeps_the_cgroups_of_a_container_and_of_a_pod() {
    let podman = Podman::with_systemd();
    podman
        .podman([
            "run",
            "--detach",
            "--name=web",
            "--network=none",
            "--memory=100m",
            "--cpus=0.5",
        ])
        .args([IMAGE, "sleep", "100000"])
        .output()
        .with_code(0);
    let scope = format!("libpod-{}.scope", format(&podman, "web", "{{.Id}}"));
    let show = |property: &str| {
        podman
            .systemd()
            .systemctl(&["show", &scope, "--value", "--property", property])
    };
    assert_eq!(show("ActiveState"), "active\n");
    assert_eq!(show("ControlGroup"), format!("/machine.slice/{scope}\n"));
    assert_eq!(show("CPUQuotaPerSecUSec"), "500ms\n");
    let limit = ["exec", "web", "cat", "/sys/fs/cgroup/memory.max"];
    assert_eq!(podman.podman(limit).output().success(), "104857600\n");
    assert!(tasks(&podman, "web") > 0);
    podman
        .podman(["rm", "--force", "--time=0", "web"])
        .output()
        .with_code(0);

    podman
        .podman(["pod", "create", "--name=pair", "--network=none"])
        .output()
        .with_code(0);
    let member = ["run", "--rm", "--pod=pair", IMAGE, "hostname"];
    assert_eq!(podman.podman(member).output().success(), "pair\n");
    podman
        .podman(["pod", "rm", "--force", "--time=0", "pair"])
        .output()
        .with_code(0);
}

/// A pod as Kubernetes describes it, of two containers that see the same folder.
const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: played
spec:
  hostname: played
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: writer
    image: localhost/busybox
    imagePullPolicy: Never
    command: [sh, -c, 'hostname > /shared/name; exec sleep 100000']
    volumeMounts: [{name: shared, mountPath: /shared}]
    resources: {limits: {memory: 64Mi}}
  - name: reader
    image: localhost/busybox
    imagePullPolicy: Never
    command: [sleep, '100000']
    volumeMounts: [{name: shared, mountPath: /shared}]
";

#[test]
fn a_pod_of_kubernetes_is_played() {
    let podman = Podman::with_systemd();
    let manifest = podman.host().file("pod.yaml", MANIFEST);
    let play = |options: &[&str]| podman.podman(["kube", "play"]).args(options).arg(&manifest);
    play(&["--network=none"]).output().with_code(0);
    let exec = |container: &str, script: &str| {
        let exec = podman.podman(["exec", container, "sh", "-c", script]);
        exec.output().success()
    };
    let shared = "until [ -s /shared/name ]; do sleep 0.1; done; cat /shared/name";
    assert_eq!(exec("played-reader", shared), "played\n");
    let limit = "cat /sys/fs/cgroup/memory.max";
    assert_eq!(exec("played-writer", limit), "67108864\n");
    let boot = format!("cat {BOOT}");
    assert_eq!(
        exec("played-reader", &boot),
        exec("played-writer", &boot),
        "one machine"
    );
    play(&["--down"]).output().with_code(0);
    assert_eq!(podman.podman(["ps", "--all", "--quiet"]).output().success(), "");
}
