//! An engine creates a container, starts it later, and learns how it ended as its stand-in's parent.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use bulkhead_tests::harness::{ConsoleSocket, Host, LIMIT, processes, receive_descriptor};
use bulkhead_tests::testbed::channel::WindowSize;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::{Value, json};

#[test]
fn a_container_is_created_then_started_then_deleted() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo started; exit 7"]);
        config["annotations"] = json!({"a": "b"});
    });
    let container = host.create(&bundle);
    let created = container.state();
    assert_eq!(created["status"], "created");
    assert_eq!(created["pid"], container.pid.as_raw());
    assert_eq!(created["bundle"], bundle.folder().to_str().unwrap());
    assert_eq!(created["annotations"], json!({"a": "b"}));
    assert_eq!(container.stdout(), "", "the program waits");
    let list = |arguments: &[&str]| host.bulkhead().arg("list").args(arguments).output().success();
    assert_eq!(list(&["-q"]), format!("{}\n", container.id));
    let listed: Value = serde_json::from_str(&list(&["--format", "json"])).unwrap();
    assert_eq!(listed[0], created);
    assert!(list(&[]).contains("created"));
    let session = processes::stat_field(container.pid, 3).unwrap();
    assert_eq!(session, container.pid.to_string(), "it leads a session");
    let refused = host.run_as(&bundle, &container.id).output().refusal();
    assert!(
        refused.contains("container with given ID already exists"),
        "{refused}"
    );

    container.start();
    assert_eq!(container.wait(), WaitStatus::Exited(container.pid, 7));
    assert_eq!(container.stdout(), "started\n");
    assert_eq!(container.stderr(), "");
    let stopped = container.state();
    assert_eq!(
        (&stopped["status"], &stopped["pid"]),
        (&json!("stopped"), &json!(0))
    );
    for (command, message) in [
        ("start", "cannot start a container that has stopped"),
        ("kill", "container not running"),
    ] {
        let refused = container.command(command).output().refusal();
        assert!(refused.contains(message), "{refused}");
    }
    assert_eq!(container.command("kill").arg("--all").output().success(), "");
    container.delete();
    let gone = container.command("state").output().refusal();
    assert!(gone.contains("container does not exist"), "{gone}");
    assert_eq!(container.command("delete").arg("--force").output().success(), "");
}

#[test]
fn a_killed_program_kills_its_stand_in_by_the_same_signal() {
    let host = Host::new();
    let bundle = host.script("trap 'echo caught' HUP; echo ready; while :; do sleep 1000 & wait $!; done");
    let container = host.create(&bundle);
    container.start();
    let again = container.command("start").output().refusal();
    assert!(
        again.contains("cannot start an already running container"),
        "{again}"
    );
    let running = container.command("delete").output().refusal();
    let expected = format!(
        "cannot delete container {} that is not stopped: running",
        container.id
    );
    assert!(running.contains(&expected), "{running}");
    container.kill("HUP");
    container.kill("9");
    assert_eq!(
        container.wait(),
        WaitStatus::Signaled(container.pid, Signal::SIGKILL, false)
    );
    assert_eq!(container.status(), "stopped");
    container.delete();
}

#[test]
fn a_created_container_can_be_killed_or_deleted() {
    let host = Host::new();
    let bundle = host.script("echo never");
    let container = host.create(&bundle);
    container.kill("SIGKILL");
    assert_eq!(
        container.wait(),
        WaitStatus::Signaled(container.pid, Signal::SIGKILL, false)
    );
    container.delete();
    let container = host.create_as(&bundle, &container.id);
    container.delete();
    assert_eq!(
        container.wait(),
        WaitStatus::Signaled(container.pid, Signal::SIGKILL, false)
    );
    assert_eq!(container.stdout(), "");
}

#[test]
fn what_killed_stand_ins_leave_is_deleted() {
    let host = Host::new();
    let container = host.create(&host.script("exec sleep 100000"));
    container.start();
    kill(container.pid, Signal::SIGKILL).unwrap();
    let _ = container.wait();
    assert_eq!(container.status(), "stopped");
    container.delete();
}

#[test]
fn a_creation_that_fails_leaves_nothing_and_says_why_once() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| config["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]));
    let log = host.folder().join("log.json");
    let create = || {
        host.bulkhead()
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "create"])
            .arg(host.new_id())
            .arg("--bundle")
            .arg(bundle.folder())
    };
    let refused = create().output().refusal();
    assert!(refused.contains("RLIMIT_X"), "{refused}");
    let logged: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim_end()).unwrap();
    assert_eq!(logged["level"], "error");
    assert!(refused.ends_with(logged["msg"].as_str().unwrap()), "{refused}");
    for (arguments, message) in [
        (["--pid-file", "/nonexistent/pid"], "/nonexistent/pid"),
        (["--preserve-fds", "1"], "--preserve-fds"),
        (["--console-socket", "/nonexistent"], "cannot use console socket"),
    ] {
        let bundle = host.script("echo never");
        let create = host.bulkhead().args(["create", "--bundle"]).arg(bundle.folder());
        let refused = create.args(arguments).arg(host.new_id()).output().refusal();
        assert!(refused.contains(message), "{refused}");
    }
}

#[test]
fn a_container_whose_creator_was_killed_is_there_or_can_be_removed() {
    let host = Host::new();
    let bundle = host.script("echo never");
    let id = host.new_id();
    let creator = host
        .bulkhead()
        .args(["create", "--bundle"])
        .arg(bundle.folder())
        .arg(&id)
        .spawn();
    // The stand-in is there as soon as there is a record.
    let record = host.state().join(&id).join("state.json");
    while !record.exists() {
        std::thread::yield_now();
    }
    creator.signal(Signal::SIGKILL);
    let _ = processes::wait_for_end(creator.pid(), LIMIT);
    let delete = host.bulkhead().args(["delete", "--force", &id]);
    assert_eq!(delete.output().success(), "");
    drop(creator);
}

#[test]
fn run_can_detach_and_keep() {
    let host = Host::new();
    let bundle = host.script("echo said; exit 3");
    let id = host.new_id();
    let detached = host.create_by(host.bulkhead().args(["run", "--detach"]), &bundle, &id);
    assert_eq!(detached.wait(), WaitStatus::Exited(detached.pid, 3));
    assert_eq!(detached.stdout(), "said\n");
    detached.delete();
    let kept = host.run_as(&bundle, &id).arg("--keep").output().with_code(3);
    assert_eq!(kept.stdout(), "said\n");
    let record = fs::read_to_string(host.state().join(&id).join("state.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["exit"], json!({"code": 3}));
    detached.delete();
}

/// Who has read the last byte may ask at once how it ended.
#[test]
fn the_record_says_that_it_is_stopped_before_its_output_ends() {
    let host = Host::new();
    let bundle = host.script("echo the last; exit 3");
    for _ in 0..3 {
        let id = host.new_id();
        let (mut reader, writer) = io::pipe().unwrap();
        let mut create = host.bulkhead().args(["create", "--bundle"]);
        create = create.arg(bundle.folder()).arg(&id);
        let command = create.command().stdin(Stdio::null()).stderr(Stdio::null());
        assert!(command.stdout(writer).status().unwrap().success());
        // It has the pipe, too.
        drop(create);
        assert_eq!(host.bulkhead().args(["start", &id]).output().success(), "");
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        let record = fs::read(host.state().join(&id).join("state.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(
            (said.as_str(), &record["status"], &record["exit"]),
            ("the last\n", &json!("stopped"), &json!({"code": 3}))
        );
        assert_eq!(host.bulkhead().args(["delete", &id]).output().success(), "");
    }
}

/// What other callers of runc may give.
#[test]
fn options_that_change_nothing_here_are_taken() {
    let host = Host::new();
    let run = host.bulkhead().args(["--rootless", "false", "run", "--bundle"]);
    let run = run.arg(host.script("echo runs").folder()).arg(host.new_id());
    let run = run.args([
        "--no-pivot",
        "--no-new-keyring",
        "--no-subreaper",
        "--preserve-fds",
        "0",
    ]);
    assert_eq!(run.output().success(), "runs\n");
}

#[test]
fn a_terminal_is_handed_over_and_its_size_follows() {
    let host = Host::new();
    let script = "trap 'stty size; exit 4' WINCH; test -t 0 && test -t 2 && stty size && echo ready; \
                  while :; do sleep 1000 & wait $!; done";
    let bundle = host.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let id = host.new_id();
    let create = || host.bulkhead().arg("create");
    let refused = create()
        .arg("--bundle")
        .arg(bundle.folder())
        .arg(&id)
        .output()
        .refusal();
    assert!(refused.contains("cannot allocate tty"), "{refused}");
    let socket = ConsoleSocket::listen(host.folder());
    let container = host.create_by(create().arg("--console-socket").arg(&socket.path), &bundle, &id);
    let terminal = socket.receive();
    terminal.resize(WindowSize {
        rows: 33,
        columns: 101,
    });
    container.start();
    terminal.wait_for("33 101\r\nready\r\n");
    terminal.resize(WindowSize {
        rows: 12,
        columns: 45,
    });
    terminal.wait_for("12 45\r\n");
    assert_eq!(container.wait(), WaitStatus::Exited(container.pid, 4));
    assert_eq!(
        (container.stdout(), container.stderr()),
        (String::new(), String::new())
    );
    container.delete();
}

/// The process of the pidfd that comes next.
#[track_caller]
fn next_pid(socket: &UnixListener) -> Pid {
    let (text, pidfd) = receive_descriptor(socket);
    assert_eq!(text, "pidfd");
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    Pid::from_raw(pid.expect("a pidfd").trim().parse().unwrap())
}

#[test]
fn a_socket_gets_a_pidfd_of_each_stand_in() {
    let host = Host::new();
    let path = host.folder().join("pidfd.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let option = ["--pidfd-socket", path.to_str().unwrap()];
    let bundle = host.script("echo up; exec sleep 100000");

    let creation = host.bulkhead().arg("create").args(option);
    let container = host.create_by(creation, &bundle, &host.new_id());
    assert_eq!(next_pid(&socket), container.pid);
    container.start();
    let exec = container.exec(&option, &["cat"]).spawn();
    assert_eq!(next_pid(&socket), exec.pid());
    exec.signal(Signal::SIGTERM);
    exec.wait().with_code(128 + 15);
    let detached = [option[0], option[1], "--detach"];
    container.exec(&detached, &["true"]).output().success();
    let standin = next_pid(&socket);
    assert_eq!(
        container.wait_for_standin(standin),
        WaitStatus::Exited(standin, 0)
    );
    container.discard();

    let id = host.new_id();
    let running = host
        .bulkhead()
        .args(["run", "--bundle"])
        .arg(bundle.folder())
        .args(option)
        .arg(&id)
        .spawn();
    let monitor = next_pid(&socket);
    running.wait_for("up");
    assert_eq!(monitor, processes::descendant_named(running.pid(), "bulkhead"));
    running.signal(Signal::SIGKILL);
    drop(running);

    drop(socket);
    let line = host
        .bulkhead()
        .args(["create", "--bundle"])
        .arg(bundle.folder())
        .args(option)
        .arg(host.new_id())
        .output()
        .refusal();
    assert!(
        line.contains("--pidfd-socket") && line.contains("Connection refused"),
        "{line}"
    );
}
