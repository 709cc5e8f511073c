//! Further programs in a container that is there.

use std::fs;
use std::io::{self, BufReader};
use std::thread;

use bulkhead_tests::harness::{Bundle, ConsoleSocket, Container, Host, processes};
use bulkhead_tests::pattern;
use bulkhead_tests::testbed::channel::WindowSize;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getsid};
use serde_json::json;
use sha2::{Digest, Sha256};

const MIB_64: usize = 64 << 20;

fn sleeper(host: &Host) -> Bundle {
    host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "100000"]);
        config["process"]["env"] = json!(["PATH=/bin", "FROM=config"]);
    })
}

#[test]
fn a_program_runs_as_it_is_asked_to() {
    let host = Host::new();
    let container = host.create(&sleeper(&host));
    let exec = |options: &[&str], command: &[&str]| container.exec(options, command).output();
    assert_eq!(
        exec(&[], &["echo", "before the start"]).success(),
        "before the start\n"
    );
    container.start();

    let output = exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]).with_code(7);
    assert_eq!(
        (output.stdout().as_str(), output.stderr().as_str()),
        ("out\n", "err\n")
    );
    exec(&[], &["sh", "-c", "kill -9 $$"]).with_code(137);

    let options = [
        "-e",
        "A=1",
        "--env",
        "A=2",
        "-u",
        "12:13",
        "-g",
        "7",
        "--additional-gids",
        "8",
        "--cwd",
        "/tmp",
        "-c",
        "CAP_SYS_TIME",
        "--no-new-privs",
    ];
    let script =
        "id; pwd; echo $FROM $A; env | grep -c ^A=; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status";
    let text = exec(&options, &["sh", "-c", script]).success();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "uid=12 gid=13 groups=7,8");
    assert_eq!(lines[1..4], ["/tmp", "config 2", "1"]);
    let bounding = lines[4].trim_start_matches("CapBnd:").trim();
    let bounding = u64::from_str_radix(bounding, 16).unwrap();
    assert_ne!(bounding & 1 << 25, 0, "CAP_SYS_TIME was added to {bounding:x}");
    assert_ne!(
        bounding & 1 << 5,
        0,
        "CAP_KILL of config.json stayed in {bounding:x}"
    );
    assert_eq!(lines[5], "NoNewPrivs:\t1");

    // What follows the program's name is the program's, also what looks like an option.
    assert_eq!(exec(&[], &["echo", "-u", "--cwd", "/"]).success(), "-u --cwd /\n");
    let process = json!({"args": ["sh", "-c", "pwd; id -u"], "cwd": "/bin", "env": ["PATH=/bin"], "user": {"uid": 3, "gid": 4}});
    let file = host.file("process.json", process.to_string());
    let by_file = ["--process", file.to_str().unwrap()];
    assert_eq!(exec(&by_file, &[]).success(), "/bin\n3\n");

    let mut cat = container.exec(&[], &["cat"]).spawn();
    cat.send("through\n");
    cat.stdin.take();
    assert_eq!(cat.wait().success(), "through\n");

    // It sees the container's processes, and nobody's from an earlier exec.
    let mut pids = container
        .shell("ps -o comm")
        .lines()
        .skip(1)
        .map(str::to_owned)
        .collect::<Vec<_>>();
    pids.sort_unstable();
    assert_eq!(pids, ["ps", "sleep"], "what ran before has gone");
    container.discard();
}

#[test]
fn a_program_runs_in_a_cgroup_below_the_containers() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let script = "mkdir /sys/fs/cgroup/below; echo made; exec sleep 100000";
        config["process"]["args"] = json!(["sh", "-c", script]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        let cgroups = mounts.iter_mut().find(|mount| mount["type"] == "cgroup");
        cgroups.unwrap()["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
    });
    let container = host.started(&bundle);
    container.wait_for("made");
    for (options, cgroup) in [
        (&[][..], "0::/\n"),
        (&["--cgroup", "below"], "0::/below\n"),
        (&["--cgroup", "/below"], "0::/below\n"),
    ] {
        let output = container.exec(options, &["cat", "/proc/self/cgroup"]).output();
        assert_eq!(output.success(), cgroup, "{options:?}");
    }
    let refused = |cgroup, text| {
        let output = container
            .exec(&["--cgroup", cgroup], &["true"])
            .output()
            .with_code(255);
        assert!(output.stderr().contains(text), "{output:?}");
    };
    refused("../..", "cgroup \"../..\"");
    refused("cpu:below", "cgroup v2");
    container.discard();
}

#[test]
fn a_program_that_cannot_run_is_told_in_one_line() {
    let host = Host::new();
    let container = host.started(&sleeper(&host));
    let refused = |options: &[&str], command: &[&str], text: &str| {
        let output = container.exec(options, command).output().with_code(255);
        let stderr = output.stderr();
        assert_eq!(stderr.lines().count(), 1, "{output:?}");
        assert!(
            stderr.starts_with("bulkhead: exec failed: ") && stderr.contains(text),
            "{stderr}"
        );
    };
    refused(&[], &["nosuch"], "executable file not found in $PATH");
    refused(&[], &["/bin"], "exec /bin: is a directory");
    refused(&[], &[], "process.args: empty");
    refused(
        &["--cwd", "tmp"],
        &["true"],
        "process.cwd: \"tmp\" is not an absolute path",
    );
    refused(&["--cwd", "/nowhere"], &["true"], "no such file or directory");
    refused(&["-u", "bob"], &["true"], "--user \"bob\"");
    refused(&["--preserve-fds", "1"], &["true"], "--preserve-fds");
    refused(&["--process-label", "x"], &["true"], "process.selinuxLabel");
    refused(
        &["--process", "/nowhere"],
        &[],
        "/nowhere: No such file or directory",
    );
    refused(&["--cgroup", "nowhere"], &["true"], "cgroup \"nowhere\"");
    refused(&["--tty"], &["true"], "standard input is not one");
    refused(
        &["--tty", "--detach"],
        &["true"],
        "without setting console socket",
    );
    refused(
        &["--console-socket", "/x"],
        &["true"],
        "cannot use console socket",
    );
    refused(&["--detach"], &["nosuch"], "executable file not found in $PATH");

    container.kill("KILL");
    let _ = container.wait();
    refused(&[], &["true"], "container not running");
    let output = host
        .bulkhead()
        .args(["exec", "nobody", "true"])
        .output()
        .with_code(255);
    assert!(output.stderr().contains("container does not exist"), "{output:?}");
    container.discard();
}

#[test]
fn nothing_is_lost_in_streams_and_signals_are_passed_on() {
    let host = Host::new();
    let bundle = sleeper(&host).with_program("workload");
    let container = host.started(&bundle);

    let mut sent = Sha256::new();
    pattern::write(&mut sent, MIB_64).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let mut cat = container.exec(&[], &["cat"]).spawn_with_stdout(writer);
    let mut stdin = cat.stdin.take().unwrap();
    let feeding = thread::spawn(move || pattern::write(&mut stdin, MIB_64));
    let mut received = Sha256::new();
    let length = io::copy(&mut BufReader::with_capacity(1 << 20, reader), &mut received).unwrap();
    feeding.join().unwrap().unwrap();
    cat.wait().success();
    assert_eq!(length, MIB_64 as u64);
    assert_eq!(received.finalize(), sent.finalize());

    let (reader, writer) = io::pipe().unwrap();
    let bytes = MIB_64.to_string();
    let burst = container
        .exec(&[], &["workload", "burst", &bytes])
        .spawn_with_stdout(writer);
    let mut checker = pattern::Checker::new();
    io::copy(&mut BufReader::with_capacity(1 << 20, reader), &mut checker).unwrap();
    burst.wait().success();
    assert_eq!(checker.finish(), Ok(MIB_64));

    // As with runc: output that a program leaves to others is waited for.
    let output = container
        .exec(&[], &["sh", "-c", "(sleep 1; echo late) & echo early"])
        .output();
    assert_eq!(output.success(), "early\nlate\n");

    let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let running = container.exec(&[], &["sh", "-c", script]).spawn();
    running.wait_for("ready");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().with_code(9).stdout(), "ready\ngot it\n");
    container.discard();
}

#[test]
fn a_detached_program_has_a_stand_in_that_ends_as_it_does() {
    let host = Host::new();
    let container = host.started(&sleeper(&host));
    let standin = container.exec_detached("echo here; sleep 100000");
    assert_eq!(getsid(Some(standin)).unwrap(), standin, "a session of its own");
    let link = |pid: Pid, name: &str| fs::read_link(processes::file(pid, name)).unwrap();
    assert_eq!(link(standin, "ns/net"), link(container.pid, "ns/net"));
    let cgroup = |pid: Pid| fs::read_to_string(processes::file(pid, "cgroup")).unwrap();
    assert_eq!(cgroup(standin), cgroup(container.pid));
    assert!(container.shell("ps").contains("sleep 100000"));
    // The program goes with its stand-in.
    kill(standin, Signal::SIGKILL).unwrap();
    assert_eq!(
        container.wait_for_standin(standin),
        WaitStatus::Signaled(standin, Signal::SIGKILL, false)
    );
    let gone = "while ps -o args | grep -q '^sh -c echo here'; do sleep 0.1; done; echo gone";
    assert_eq!(container.shell(gone), "gone\n");

    let standin = container.exec_detached("echo one; exit 3");
    assert_eq!(
        container.wait_for_standin(standin),
        WaitStatus::Exited(standin, 3)
    );
    let standin = container
        .exec_detached("trap '' TERM; trap 'kill -USR2 $$' USR1; echo ready; while :; do sleep 0.1; done");
    container.wait_for("ready");
    kill(standin, Signal::SIGUSR1).unwrap();
    assert_eq!(
        container.wait_for_standin(standin),
        WaitStatus::Signaled(standin, Signal::SIGUSR2, false)
    );
    // The stand-in ends with the program; what that has left behind goes on being carried.
    let standin = container.exec_detached("(sleep 2; echo heir) & echo testator; exit 4");
    assert_eq!(
        container.wait_for_standin(standin),
        WaitStatus::Exited(standin, 4)
    );
    assert!(container.stdout().ends_with("testator\n"));
    container.wait_for("heir");

    let socket = ConsoleSocket::listen(host.folder());
    let options = [
        "--detach",
        "--tty",
        "--console-socket",
        socket.path.to_str().unwrap(),
    ];
    let script = "echo ready; trap 'stty size; tty; exit 5' WINCH; while :; do sleep 0.1; done";
    container.exec(&options, &["sh", "-c", script]).output().success();
    let terminal = socket.receive();
    terminal.wait_for("ready");
    terminal.resize(WindowSize {
        rows: 12,
        columns: 45,
    });
    terminal.wait_for("12 45\r\n/dev/pts/");
    container.discard();
}

#[test]
fn containers_of_one_machine_are_asked_apart() {
    let host = Host::new();
    let owner = host.started(&sleeper(&host));
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "200000"]);
        config["annotations"]["io.kubernetes.cri.container-type"] = json!("container");
        config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(owner.id);
    });
    let member = host.started(&bundle);
    let boot = "cat /proc/sys/kernel/random/boot_id";
    assert_eq!(owner.shell(boot), member.shell(boot), "one guest");
    assert!(
        !member.shell("ps").contains("sleep 100000"),
        "its processes are its own"
    );
    let list = |container: &Container| container.command("ps").output().success();
    assert!(list(&owner).contains("sleep 100000") && !list(&owner).contains("sleep 200000"));
    assert!(list(&member).contains("sleep 200000") && !list(&member).contains("sleep 100000"));
    let standin = member.exec_detached("exit 6");
    assert_eq!(member.wait_for_standin(standin), WaitStatus::Exited(standin, 6));

    member
        .command("update")
        .args(["--pids-limit", "77"])
        .output()
        .success();
    assert_eq!(member.shell("cat /sys/fs/cgroup/pids.max"), "77\n");
    assert_eq!(owner.shell("cat /sys/fs/cgroup/pids.max"), "max\n");
    member.command("pause").output().success();
    assert_eq!(
        (member.status(), owner.status()),
        ("paused".into(), "running".into())
    );
    assert_eq!(owner.shell("echo goes on"), "goes on\n");
    member.command("resume").output().success();
    assert_eq!(member.shell("echo too"), "too\n");
    member.discard();
    owner.discard();
}

#[test]
fn a_person_at_a_terminal_gets_one_in_the_container() {
    let host = Host::new();
    let container = host.started(&sleeper(&host));
    let size = WindowSize {
        rows: 33,
        columns: 101,
    };
    let script = "stty size; trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 0.1; done";
    let running = container
        .exec(&["-t"], &["sh", "-c", script])
        .spawn_on_terminal(size);
    assert!(running.wait_for("ready").contains("33 101\r\n"));
    running.resize(WindowSize {
        rows: 12,
        columns: 45,
    });
    running.wait_for("12 45\r\n");
    running.wait().with_code(6);

    let script = "trap 'echo interrupted; exit 8' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = container
        .exec(&["-t"], &["sh", "-c", script])
        .spawn_on_terminal(size);
    running.wait_for("ready");
    running.send("\x03");
    running.wait_for("interrupted");
    running.wait().with_code(8);
    container.discard();
}

#[test]
fn a_program_goes_down_with_its_container_and_its_virtual_machine() {
    let host = Host::new();
    let container = host.started(&sleeper(&host));
    let script = "echo ready; exec sleep 100000";
    let running = container.exec(&[], &["sh", "-c", script]).spawn();
    running.wait_for("ready");
    container.kill("KILL");
    assert_eq!(running.wait().status.code(), Some(137));
    container.discard();

    let container = host.started(&sleeper(&host));
    let running = container.exec(&[], &["sh", "-c", script]).spawn();
    running.wait_for("ready");
    let vmm = processes::descendant_named(container.pid, "bulkhead-vmm");
    kill(vmm, Signal::SIGKILL).unwrap();
    let output = running.wait().with_code(137);
    let text = "bulkhead: exec failed: the virtual machine ended before the program did\n";
    assert_eq!(output.stderr(), text);
    container.discard();
}

#[test]
fn processes_of_a_container_are_listed() {
    let host = Host::new();
    let container = host.started(&host.script("sleep 100001 & exec sleep 100000"));
    let list = || container.command("ps").output().success();
    while list()
        .lines()
        .filter(|line| line.contains(" sleep 10000"))
        .count()
        < 2
    {}
    let table = list();
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    let first: Vec<_> = lines
        .find(|line| line.ends_with("sleep 100000"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!((first[0], first[5]), ("root", "?"));
    assert_eq!(first[6].split(':').count(), 3, "hours, minutes and seconds");
    let second = table.lines().find(|line| line.ends_with("sleep 100001")).unwrap();
    let second: Vec<_> = second.split_whitespace().collect();
    assert_eq!(second[2], first[1], "its parent is the first process");

    let json = host
        .bulkhead()
        .args(["ps", "--format", "json"])
        .arg(&container.id)
        .output()
        .success();
    let pids: Vec<u32> = serde_json::from_str(&json).unwrap();
    assert_eq!(pids.len(), table.lines().count() - 1);
    assert!(pids.contains(&first[1].parse().unwrap()));
    assert_eq!(
        container
            .command("ps")
            .arg("-ef")
            .output()
            .success()
            .lines()
            .count(),
        3
    );
    let refusal = container.command("ps").args(["-o", "pid"]).output().refusal();
    assert!(refusal.contains("\"-o\" is not supported"), "{refusal}");

    for command in ["checkpoint", "restore"] {
        let refusal = container.command(command).output().refusal();
        assert!(
            refusal.contains("no snapshots of virtual machines yet"),
            "{refusal}"
        );
    }
    let help = host.bulkhead().arg("--help").output().success();
    for command in [
        "exec",
        "ps",
        "pause",
        "resume",
        "update",
        "events",
        "checkpoint",
        "restore",
    ] {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} is in {help}"
        );
    }
    container.discard();
}
