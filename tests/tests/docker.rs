//! A person uses docker, with bulkhead as its runtime.

use std::fs;
use std::net::Ipv4Addr;

use bulkhead_tests::harness::{DOCKER_IMAGE as IMAGE, Docker, page};
use bulkhead_tests::testbed::channel::WindowSize;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn containers_run_serve_are_looked_at_and_end() {
    let docker = Docker::new();
    let script = format!("cat {BOOT}; exit 42");
    let run = docker.docker(["run", "--rm", "--network=none", IMAGE, "sh", "-c", &script]);
    let boot = run.output().with_code(42).stdout();
    assert_ne!(
        boot,
        fs::read_to_string(BOOT).unwrap(),
        "it has a kernel of its own"
    );

    // A service on docker's bridge.
    let service = "trap 'echo stopping; exit 3' TERM; mkdir /srv; echo hello > /srv/page
        httpd -p 80 -h /srv; echo ready; while :; do sleep 1000 & wait $!; done";
    docker
        .docker([
            "run",
            "--detach",
            "--name=web",
            "--publish=127.0.0.1:8080:80",
            "--memory=200m",
            "--cpus=0.5",
        ])
        .args([IMAGE, "sh", "-c", service])
        .output()
        .with_code(0);
    let logs = docker.docker(["logs", "--follow", "web"]).spawn();
    logs.wait_for("ready\n");
    let answer = page((Ipv4Addr::LOCALHOST, 8080));
    assert!(answer.ends_with("\r\n\r\nhello\n"), "{answer}");

    // Others look into it.
    let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; exit 9";
    let exec = docker
        .docker(["exec", "web", "sh", "-c", limits])
        .output()
        .with_code(9);
    assert_eq!(exec.stdout(), "209715200\n50000 100000\n");
    let size = WindowSize {
        rows: 33,
        columns: 101,
    };
    let mut shell = docker
        .docker(["exec", "--interactive", "--tty", "web", "sh"])
        .spawn_on_terminal(size);
    shell.wait_for("# ");
    shell.send("tty; exit 5\r");
    assert!(shell.wait().with_code(5).stdout().contains("/dev/pts/"));
    let top = docker.docker(["top", "web"]).output().success();
    assert!(top.lines().count() > 1, "{top}");

    // It stands still and goes on, is asked to end, runs again, and is made to end.
    let state = |template: &str| {
        let inspect = docker.docker(["inspect", "--format", template, "web"]).output();
        inspect.success().trim_end().to_owned()
    };
    docker.docker(["pause", "web"]).output().with_code(0);
    assert_eq!(state("{{.State.Status}}"), "paused");
    docker.docker(["unpause", "web"]).output().with_code(0);
    docker.docker(["stop", "--time=60", "web"]).output().with_code(0);
    assert_eq!(state("{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    assert_eq!(logs.wait().success(), "ready\nstopping\n");
    docker.docker(["start", "web"]).output().with_code(0);
    docker.docker(["kill", "web"]).output().with_code(0);
    docker.docker(["wait", "web"]).output().with_code(0);
    assert_eq!(state("{{.State.ExitCode}}"), "137");
    docker.docker(["rm", "web"]).output().with_code(0);
}

#[test]
fn files_limits_and_devices_of_a_container() {
    let docker = Docker::new();
    docker
        .docker([
            "run",
            "--detach",
            "--name=box",
            "--network=none",
            "--volume=kept:/kept",
            "--memory=200m",
        ])
        .args([IMAGE, "sleep", "100000"])
        .output()
        .with_code(0);
    let exec = |script: &str| {
        docker
            .docker(["exec", "box", "sh", "-c", script])
            .output()
            .success()
    };

    // Files go in and out, also of a volume.
    let folder = docker.host().folder();
    let sent = docker.host().file("sent", "a file\n");
    for inside in ["/tmp", "/kept"] {
        let received = format!("box:{inside}/received");
        docker
            .docker(["cp"])
            .arg(&sent)
            .arg(&received)
            .output()
            .with_code(0);
        let changed = format!("cat {inside}/received; echo from {inside} > {inside}/received");
        assert_eq!(exec(&changed), "a file\n");
        let fetched = folder.join("fetched");
        docker
            .docker(["cp"])
            .arg(&received)
            .arg(&fetched)
            .output()
            .with_code(0);
        assert_eq!(fs::read_to_string(fetched).unwrap(), format!("from {inside}\n"));
    }

    // Its limits change, and it is measured.
    docker
        .docker([
            "update",
            "--memory=100m",
            "--memory-swap=100m",
            "--cpus=0.3",
            "box",
        ])
        .output()
        .with_code(0);
    assert_eq!(
        exec("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; ls /sys/class/net"),
        "104857600\n30000 100000\nlo\n"
    );
    let tasks = docker
        .docker(["stats", "--no-stream", "--format={{.PIDs}}", "box"])
        .output()
        .success();
    assert!(
        tasks.trim_end().parse::<u32>().is_ok_and(|count| count > 0),
        "{tasks}"
    );
    docker.docker(["rm", "--force", "box"]).output().with_code(0);
    docker.docker(["volume", "rm", "kept"]).output().with_code(0);

    // One that is privileged is that in its own machine.
    let script =
        "mount -t tmpfs tmpfs /tmp && echo mounted; grep -c ' /proc/' /proc/mounts; grep -o ' /sys sysfs rw' /proc/mounts
        find /dev -type b; ls -d /dev/kvm; true < /dev/kmsg && echo opened";
    let run = docker
        .docker([
            "run",
            "--rm",
            "--privileged",
            "--network=none",
            IMAGE,
            "sh",
            "-c",
            script,
        ])
        .output()
        .with_code(0);
    assert_eq!(run.stdout(), "mounted\n0\n /sys sysfs rw\nopened\n", "{run:?}");

    // The host's own network is not to be had.
    let refused = docker
        .docker(["run", "--rm", "--network=host", IMAGE, "true"])
        .output()
        .with_code(125);
    assert!(
        refused.stderr().contains("which a virtual machine cannot share"),
        "{refused:?}"
    );
    assert_eq!(docker.docker(["ps", "--all", "--quiet"]).output().success(), "");
}

#[test]
fn systemd_keeps_the_cgroup_of_a_container() {
    let docker = Docker::with_systemd();
    let script = "cat /sys/fs/cgroup/memory.max; echo ready; exec sleep 100000";
    docker
        .docker([
            "run",
            "--detach",
            "--name=box",
            "--network=none",
            "--memory=100m",
            "--cpus=0.5",
        ])
        .args([IMAGE, "sh", "-c", script])
        .output()
        .with_code(0);
    let logs = docker.docker(["logs", "--follow", "box"]).spawn();
    assert_eq!(logs.wait_for("ready\n"), "104857600\nready\n");
    let id = docker
        .docker(["inspect", "--format={{.Id}}", "box"])
        .output()
        .success();
    let scope = format!("docker-{}.scope", id.trim_end());
    let show = |property: &str| {
        docker
            .systemd()
            .systemctl(&["show", &scope, "--value", "--property", property])
    };
    assert_eq!(show("ActiveState"), "active\n");
    assert_eq!(show("ControlGroup"), format!("/system.slice/{scope}\n"));
    assert_eq!(show("CPUQuotaPerSecUSec"), "500ms\n");
    docker.docker(["rm", "--force", "box"]).output().with_code(0);
    assert_eq!(show("ActiveState"), "inactive\n");
}
