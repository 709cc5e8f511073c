//! A person uses podman, with bulkhead as its runtime.

mod pods;

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::process::Command;

use bulkhead_tests::harness::{PODMAN_IMAGE as IMAGE, Podman, page};
use bulkhead_tests::testbed::channel::WindowSize;

const SIZE: WindowSize = WindowSize {
    rows: 33,
    columns: 101,
};

/// Waits for the terminal's size: engines send it when the program already runs. The text that is typed is not the one
/// that is waited for.
const RESIZED: &str = "until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; echo re''sized\r";

/// Serves a page, says when it does, and ends with 3 at SIGTERM.
const SERVICE: &str = "trap 'echo stopping; exit 3' TERM; mkdir /srv; echo \"hello from $NAME\" > /srv/page
    httpd -p 80 -h /srv; echo ready; while :; do sleep 1000 & wait $!; done";

/// What differs between kernels.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

fn format(podman: &Podman, container: &str, template: &str) -> String {
    let arguments = ["inspect", "--format", template, container];
    podman.podman(arguments).output().success().trim_end().to_owned()
}

fn wait_until_ready(podman: &Podman, container: &str) {
    let logs = podman.podman(["logs", "--follow", container]).spawn();
    logs.wait_for("ready\n");
}

/// How many tasks there are for a container on the host.
fn tasks(podman: &Podman, container: &str) -> u32 {
    let stats = [
        "stats",
        "--no-stream",
        "--no-reset",
        "--format={{.PIDs}}",
        container,
    ];
    let count = podman.podman(stats).output().success();
    count.trim_end().parse().expect("a number")
}

#[test]
fn a_container_runs_and_its_end_is_told() {
    let podman = Podman::new();
    let script = format!("cat {BOOT}; echo oops >&2; exit 42");
    let output = podman
        .podman(["run", "--name=first", IMAGE, "sh", "-c", &script])
        .output()
        .with_code(42);
    let boot = fs::read_to_string(BOOT).unwrap();
    assert_eq!(output.stderr(), "oops\n");
    assert_eq!(output.stdout().len(), boot.len());
    assert_ne!(output.stdout(), boot, "it has a kernel of its own");
    assert_eq!(
        format(
            &podman,
            "first",
            "{{.State.Status}} {{.State.ExitCode}} {{.OCIRuntime}}"
        ),
        "exited 42 bulkhead"
    );
    let logs = podman.podman(["logs", "first"]).output().with_code(0);
    assert_eq!(logs.stdout(), output.stdout());
    assert_eq!(logs.stderr(), "oops\n");
    podman.podman(["rm", "first"]).output().with_code(0);

    let mut cat = podman
        .podman(["run", "--rm", "--interactive", IMAGE, "cat"])
        .spawn();
    cat.send("through and back\n");
    cat.stdin.take();
    assert_eq!(cat.wait().success(), "through and back\n");

    let missing = podman
        .podman(["run", "--rm", "--network=none", IMAGE, "nonesuch"])
        .output()
        .with_code(127);
    assert!(missing.stderr().contains("nonesuch"), "{missing:?}");
    assert_eq!(podman.podman(["ps", "--all", "--quiet"]).output().success(), "");
}

#[test]
fn a_service_is_published_looked_at_paused_stopped_and_killed() {
    let podman = Podman::new();
    let service = [
        "--name=web",
        "--env=NAME=web",
        "--publish=127.0.0.1:8080:80",
        "--volume=kept:/kept",
        IMAGE,
        "sh",
        "-c",
        SERVICE,
    ];
    podman
        .podman(["run", "--detach"].into_iter().chain(service))
        .output()
        .with_code(0);
    wait_until_ready(&podman, "web");
    assert!(
        page((Ipv4Addr::LOCALHOST, 8080)).ends_with("\r\n\r\nhello from web\n"),
        "{}",
        page((Ipv4Addr::LOCALHOST, 8080))
    );
    let listed = podman
        .podman(["ps", "--format={{.Names}} {{.Status}}"])
        .output()
        .success();
    assert!(listed.starts_with("web Up "), "{listed}");

    // Others look into it.
    let exec = |args: &[&str]| podman.podman([&["exec"], args].concat());
    assert_eq!(
        exec(&["web", "cat", "/srv/page"]).output().success(),
        "hello from web\n"
    );
    let as_asked = exec(&[
        "--env=GREETING=hi",
        "--workdir=/srv",
        "--user=7:8",
        "web",
        "sh",
        "-c",
        "pwd; id -u; id -g; echo $GREETING; exit 9",
    ]);
    assert_eq!(as_asked.output().with_code(9).stdout(), "/srv\n7\n8\nhi\n");
    exec(&["web", "nonesuch"]).output().with_code(127);
    let mut shell = exec(&["--interactive", "--tty", "web", "sh"]).spawn_on_terminal(SIZE);
    shell.wait_for("# ");
    shell.send(RESIZED);
    shell.wait_for("resized\r\n");
    shell.send("tty; exit 5\r");
    let session = shell.wait().with_code(5).stdout();
    assert!(session.contains("/dev/pts/"), "{session}");

    // Files go in and out, also of a volume.
    let sent = podman.host().file("sent", "a file\n");
    let fetched = podman.host().folder().join("fetched");
    for folder in ["/srv", "/kept"] {
        let received = format!("{folder}/received");
        let copy = |from: &OsStr, to: &OsStr| podman.podman(["cp"]).arg(from).arg(to).output().with_code(0);
        copy(sent.as_os_str(), format!("web:{received}").as_ref());
        let changed = format!("cat {received}; echo from {folder} > {received}");
        assert_eq!(
            exec(&["web", "sh", "-c", &changed]).output().success(),
            "a file\n"
        );
        copy(format!("web:{received}").as_ref(), fetched.as_os_str());
        assert_eq!(fs::read_to_string(&fetched).unwrap(), format!("from {folder}\n"));
    }

    // Its processes are listed by the guest's own ps. Podman itself looks into /proc, and is not to find the host's there.
    let top = podman.podman(["top", "web"]).output().success();
    assert_eq!(top.lines().count(), 1, "a header: {top}");
    let top = podman.podman(["top", "web", "-o", "pid,comm"]).output().success();
    assert!(top.contains("httpd"), "{top}");

    // It is measured.
    assert!(tasks(&podman, "web") > 0);

    // It stands still and goes on.
    podman.podman(["pause", "web"]).output().with_code(0);
    assert_eq!(format(&podman, "web", "{{.State.Status}}"), "paused");
    podman.podman(["unpause", "web"]).output().with_code(0);
    assert!(page((Ipv4Addr::LOCALHOST, 8080)).ends_with("hello from web\n"));

    // It is asked to end, runs again, and is made to end.
    podman.podman(["stop", "--time=60", "web"]).output().with_code(0);
    assert_eq!(
        format(&podman, "web", "{{.State.Status}} {{.State.ExitCode}}"),
        "exited 3"
    );
    assert!(
        podman
            .podman(["logs", "web"])
            .output()
            .success()
            .ends_with("ready\nstopping\n")
    );
    TcpStream::connect((Ipv4Addr::LOCALHOST, 8080)).expect_err("nobody listens any more");
    podman.podman(["start", "web"]).output().with_code(0);
    podman.podman(["kill", "web"]).output().with_code(0);
    podman.podman(["wait", "web"]).output().with_code(0);
    assert_eq!(format(&podman, "web", "{{.State.ExitCode}}"), "137");
    podman.podman(["rm", "web"]).output().with_code(0);
}

#[test]
fn the_options_of_run_reach_the_guest() {
    let podman = Podman::new();
    let mine = podman.host().directory("mine");
    fs::write(mine.join("file"), "from the host\n").unwrap();
    let seccomp = podman.host().file(
        "seccomp.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#,
    );
    let script = "id -u; id -g; hostname; echo $GREETING; pwd; cat /mine/file
        grep CapEff /proc/self/status; ulimit -Sn; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max
        touch /forbidden || touch /mine/forbidden || echo both read-only
        echo kept > /named/file; touch /scratch/file && echo scratch is writable
        mkdir /scratch/folder 2>&1 | grep -o 'Operation not supported'; readlink /proc/1/exe; wc -c < /dev/shm/none || df -m /dev/shm | awk 'END { print $2 }'";
    let output = podman
        .podman([
            "run",
            "--rm",
            "--network=none",
            "--read-only",
            "--user=7:8",
            "--cap-drop=all",
            "--cap-add=CAP_CHOWN",
            "--hostname=guesthouse",
        ])
        .args([
            "--env=GREETING=hello there",
            "--workdir=/scratch",
            "--tmpfs=/scratch:mode=1777",
            "--ulimit=nofile=77:88",
            "--shm-size=3m",
        ])
        .args([
            "--memory=100m",
            "--cpus=0.5",
            "--pids-limit=33",
            "--init",
            "--volume=kept:/named:U",
        ])
        .arg(format!("--volume={}:/mine:ro", mine.display()))
        .arg(format!("--security-opt=seccomp={}", seccomp.display()))
        .args([IMAGE, "sh", "-c", script])
        .output()
        .with_code(0);
    let output = output.stdout();
    assert_eq!(
        output.lines().collect::<Vec<_>>(),
        [
            "7",
            "8",
            "guesthouse",
            "hello there",
            "/scratch",
            "from the host",
            "CapEff:\t0000000000000001",
            "77",
            "104857600",
            "50000 100000",
            "33",
            "both read-only",
            "scratch is writable",
            "Operation not supported",
            "/run/podman-init",
            "3",
        ]
    );
    // The next container finds what the last one left in a named volume.
    let again = [
        "run",
        "--rm",
        "--network=none",
        "--volume=kept:/named:ro",
        IMAGE,
        "cat",
        "/named/file",
    ];
    assert_eq!(podman.podman(again).output().success(), "kept\n");
}

#[test]
fn a_person_sits_at_a_terminal() {
    let podman = Podman::new();
    let mut shell = podman
        .podman([
            "run",
            "--rm",
            "--network=none",
            "--interactive",
            "--tty",
            IMAGE,
            "sh",
        ])
        .spawn_on_terminal(SIZE);
    shell.wait_for("# ");
    shell.send(RESIZED);
    shell.wait_for("resized\r\n");
    shell.send("sh -c \"echo sl''eeps; exec sleep 1000\"\r");
    // From here on the terminal's keys are no longer the shell's own.
    shell.wait_for("sleeps\r\n");
    shell.send("\x03");
    shell.send("exit 6\r");
    shell.wait().with_code(6);
}

#[test]
fn a_privileged_container_may_all_in_its_machine_and_nothing_on_the_host() {
    let is_disk = |entry: fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_block_device());
    assert!(
        fs::read_dir("/dev").unwrap().flatten().any(is_disk),
        "there are disks that podman passes on"
    );
    let podman = Podman::new();
    let log = podman.host().folder().join("log");
    let script =
        "grep CapEff /proc/self/status; grep -c ' /proc/' /proc/mounts; grep -o ' /sys sysfs rw' /proc/mounts
        echo 7 > /proc/sys/vm/swappiness; cat /proc/sys/vm/swappiness
        mkdir /mine; mount -t tmpfs tmpfs /mine && umount /mine && echo mounted
        mkdir /sys/fs/cgroup/mine && echo made a cgroup
        find /dev -type b; ls -d /dev/kvm /dev/mem; true < /dev/kmsg && true < /dev/fuse && echo opened";
    let run = podman
        .podman([format!("--runtime-flag=log={}", log.display())])
        .args([
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
    let expected = "CapEff:\t000001ffffffffff\n0\n /sys sysfs rw\n7\nmounted\nmade a cgroup\nopened\n";
    assert_eq!(run.stdout(), expected, "{run:?}");
    let log = fs::read_to_string(log).unwrap();
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("linux.devices: "))
        .collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("privileged in its virtual machine"), "{log}");

    // One that is asked for by name is another matter.
    let refused = podman
        .podman([
            "run",
            "--rm",
            "--device=/dev/kvm",
            "--network=none",
            IMAGE,
            "true",
        ])
        .output()
        .with_code(126);
    assert!(
        refused
            .stderr()
            .contains("/dev/kvm (10:232) is a device of the host"),
        "{refused:?}"
    );

    // The host's network is another thing that it cannot have.
    let network = ["run", "--rm", "--network=host", IMAGE, "ls", "/sys/class/net"];
    assert_eq!(podman.podman(network).output().success(), "lo\n");
}

#[test]
fn limits_of_a_container_that_runs_are_updated_and_it_is_listed() {
    let podman = Podman::new();
    podman
        .podman([
            "run",
            "--detach",
            "--name=small",
            "--network=none",
            "--memory=64m",
        ])
        .args([IMAGE, "sleep", "100000"])
        .output()
        .with_code(0);
    let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
    let inside = || {
        let exec = podman.podman(["exec", "small", "sh", "-c", limits]);
        exec.output().success()
    };
    assert_eq!(inside(), "67108864\nmax 100000\n");
    podman
        .podman(["update", "--memory=48m", "--cpus=0.25", "small"])
        .output()
        .with_code(0);
    assert_eq!(inside(), "50331648\n25000 100000\n");

    // What podman runs is seen without podman.
    let listed = Command::new(podman.runtime()).args(["list", "--quiet"]).output();
    let listed = String::from_utf8(listed.expect("bulkhead").stdout).unwrap();
    assert_eq!(listed.trim_end(), format(&podman, "small", "{{.Id}}"));
    podman
        .podman(["rm", "--force", "--time=0", "small"])
        .output()
        .with_code(0);
}
