//! What a person at a shell gets, and a script: help, completions, manual pages, errors.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_tests::harness::{Host, Invocation, LIMIT, Output, processes};
use bulkhead_tests::testbed::channel::WindowSize;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Some of the subcommands, each of which has its line of help and its manual page.
const COMMANDS: [&str; 9] = [
    "run",
    "create",
    "start",
    "kill",
    "delete",
    "list",
    "state",
    "check",
    "completion",
];

fn bulkhead(host: &Host, arguments: &[&str]) -> Output {
    host.bulkhead().args(arguments).output()
}

#[test]
fn help_is_for_newcomers() {
    let host = Host::new();
    let help = bulkhead(&host, &["--help"]).success();
    for expected in [
        "Run containers:",
        "A bundle is a folder",
        "An ID is the name",
        "Examples:",
        "--systemd-cgroup",
        "podman --runtime",
    ] {
        assert!(help.contains(expected), "{expected}: {help}");
    }
    assert_eq!(bulkhead(&host, &["-h"]).success(), help);
    assert_eq!(bulkhead(&host, &[]).success(), help);
    assert_eq!(bulkhead(&host, &["help"]).success(), help);
    for command in COMMANDS {
        let line = help
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{command} ")));
        let about = line.map(|line| line.trim_start().trim_start_matches(command).trim_start());
        let own = bulkhead(&host, &[command, "--help"]).success();
        assert_eq!(bulkhead(&host, &["help", command]).success(), own);
        assert!(
            about.is_some_and(|about| own.starts_with(about)),
            "{command}: {own}"
        );
    }
}

/// docker and podman read the first line, and show the others.
#[test]
fn the_version_is_told_as_by_runc() {
    let host = Host::new();
    let version = bulkhead(&host, &["--version"]).success();
    let mut lines = version.lines();
    let first: Vec<_> = lines.next().expect("a line").split(' ').collect();
    assert!(
        matches!(first[..], ["bulkhead", "version", number] if number.starts_with(|c: char| c.is_ascii_digit())),
        "{version}"
    );
    assert!(lines.any(|line| line.starts_with("spec: 1.")), "{version}");
    assert_eq!(bulkhead(&host, &["-v"]).success(), version);
}

/// Each with its exit status and the beginning of its line. containerd and cri-o read the reason from the log.
#[test]
fn every_error_is_one_line_there_and_in_the_log() {
    let host = Host::new();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["frobnicate"], 3, "unrecognized subcommand 'frobnicate'"),
        (
            &["run", "--frobnicate", "x"],
            1,
            "unexpected argument '--frobnicate' found",
        ),
        (
            &["state"],
            1,
            "the following required arguments were not provided: <ID>",
        ),
        (&["help", "nothing"], 1, "unrecognized subcommand \"nothing\""),
        (&["state", "none"], 1, "container does not exist"),
        (&["delete", "none"], 1, "container does not exist"),
        (
            &["run", "--bundle", "/nonexistent", "none"],
            1,
            "bundle /nonexistent",
        ),
    ];
    for (arguments, code, message) in cases {
        let output = bulkhead(&host, arguments).with_code(code);
        let expected = format!("bulkhead: {message}");
        assert!(output.stderr().starts_with(&expected), "{output:?}");
        assert_eq!(
            (output.stderr().lines().count(), output.stdout()),
            (1, String::new())
        );

        let log = host
            .folder()
            .join(format!("{}.json", arguments.join("-").replace('/', "_")));
        let with_log = host
            .bulkhead()
            .args(["--log-format", "json", "--log"])
            .arg(&log)
            .args(arguments)
            .output()
            .with_code(code);
        assert_eq!(with_log.stderr(), output.stderr());
        is_log_line(&fs::read_to_string(&log).expect("a log"), message);

        let as_json = host
            .bulkhead()
            .args(["--log-format", "json"])
            .args(arguments)
            .output();
        is_log_line(&as_json.with_code(code).stderr(), message);
    }
}

#[track_caller]
fn is_log_line(text: &str, message: &str) {
    let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let keys: Vec<_> = line.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["level", "msg", "time"], "{line}");
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().expect("text").starts_with(message), "{line}");
    let time = line["time"].as_str().expect("text");
    assert!(
        time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T',
        "{time}"
    );
}

/// As of `bulkhead list | head -n 0`. A full disk is another matter.
#[test]
fn a_reader_that_has_gone_ends_every_command_that_prints() {
    let host = Host::new();
    let container = host.started(&host.script("exec sleep 100000"));
    let id = container.id.as_str();
    for arguments in [
        &["state", id][..],
        &["list"],
        &["list", "--quiet"],
        &["list", "--format", "json"],
        &["ps", id],
        &["events", "--stats", id],
        &["events", "--interval", "10ms", id],
        &["metrics"],
        &["features"],
        &["check"],
        &["completion", "bash"],
        &["--version"],
        &["--help"],
        &["run", "--help"],
    ] {
        let writing_to = |stdout: Stdio| host.bulkhead().args(arguments).spawn_with_stdout(stdout).wait();
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let output = writing_to(writer.into());
        assert_eq!(
            (output.status.signal(), output.stderr()),
            (Some(Signal::SIGPIPE as i32), String::new()),
            "{arguments:?}"
        );
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = writing_to(full.into()).with_code(1);
        assert_eq!(
            output.stderr(),
            "bulkhead: standard output: No space left on device (os error 28)\n",
            "{arguments:?}"
        );
    }
    container.discard();
}

#[test]
fn completions_complete() {
    let host = Host::new();
    let script = host.file(
        "completion.bash",
        bulkhead(&host, &["completion", "bash"]).success(),
    );
    let complete = |words: &str| {
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _bulkhead bulkhead \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let output = Command::new("bash").args(["-c", &ask]).output().expect("bash");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    assert_eq!(complete("bulkhead cr"), "create");
    assert_eq!(complete("bulkhead run --bun"), "--bundle");
    for (shell, sign) in [("zsh", "#compdef bulkhead"), ("fish", "complete -c bulkhead")] {
        let script = bulkhead(&host, &["completion", shell]).success();
        assert!(
            script.contains(sign) && script.contains("create"),
            "{shell}: {script}"
        );
    }
    bulkhead(&host, &["completion", "tcsh"]).refusal();
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let host = Host::new();
    let pages = host.directory("man1");
    host.bulkhead().arg("man").arg(&pages).output().success();
    let page =
        |name: &str| fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let main = page("bulkhead.1");
    for expected in [
        ".SH SYNOPSIS",
        "systemd\\-cgroup",
        "A bundle is a folder",
        "bulkhead\\-run(1)",
    ] {
        assert!(main.contains(expected), "{expected}: {main}");
    }
    for command in COMMANDS {
        let page = page(&format!("bulkhead-{command}.1"));
        assert!(
            page.contains(".SH NAME") && page.contains(".SH OPTIONS"),
            "{page}"
        );
    }
}

/// Standard output and standard error of `create` are the container's: nothing of ours is ever written there.
#[test]
fn a_container_whose_machine_is_killed_says_nothing_itself() {
    let host = Host::new();
    let bundle = host.script("exec sleep 100000");
    let id = host.new_id();
    let (stdout, stderr, log) = (
        host.folder().join("stdout"),
        host.folder().join("stderr"),
        host.folder().join("log.json"),
    );
    let mut create = host
        .bulkhead()
        .args(["--debug", "--log-format", "json", "--log"])
        .arg(&log)
        .args(["create", "--bundle"])
        .arg(bundle.folder())
        .arg(&id);
    let created = create
        .command()
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).expect("a file"))
        .stderr(File::create(&stderr).expect("a file"))
        .status()
        .expect("bulkhead");
    assert!(
        created.success(),
        "{}",
        fs::read_to_string(&stderr).expect("a file")
    );
    host.bulkhead().args(["start", &id]).output().success();
    let state: Value =
        serde_json::from_str(&host.bulkhead().args(["state", &id]).output().success()).expect("JSON");
    let monitor = Pid::from_raw(i32::try_from(state["pid"].as_i64().expect("a pid")).expect("a pid"));
    let vmm = processes::descendant_named(monitor, "bulkhead-vmm");
    kill(vmm, Signal::SIGKILL).expect("it is alive");
    assert!(processes::wait_for_end(monitor, LIMIT));
    assert_eq!(fs::read_to_string(&stdout).expect("a file"), "");
    assert_eq!(fs::read_to_string(&stderr).expect("a file"), "");
    let log = fs::read_to_string(&log).expect("a log");
    let told = log.lines().any(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["level"] == "error"
            && line["msg"]
                .as_str()
                .is_some_and(|message| message.contains("VMM"))
    });
    assert!(told, "{log}");
    host.bulkhead().args(["delete", &id]).output().success();
}

#[test]
fn what_make_installs_is_whole_and_runs() {
    let mut host = Host::new();
    let root = host.directory("root");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // What is tested is built already.
    let install = Command::new("make")
        .args(["--silent", "--old-file=product", "--directory"])
        .arg(workspace)
        .arg("install")
        .arg(format!("DESTDIR={}", root.display()))
        .output()
        .unwrap();
    assert!(install.status.success(), "{install:?}");
    let installed = |path: &str| root.join("usr").join(path);
    for (path, mode) in [
        ("bin/bulkhead", 0o755),
        ("bin/containerd-shim-bulkhead-v2", 0o755),
        ("libexec/bulkhead/bulkhead-vmm", 0o755),
        ("share/bulkhead/vmlinux", 0o644),
        ("share/bulkhead/initramfs.cpio", 0o644),
        ("share/man/man1/bulkhead.1", 0o644),
        ("share/man/man1/bulkhead-run.1", 0o644),
        ("share/bash-completion/completions/bulkhead", 0o644),
        ("share/zsh/vendor-completions/_bulkhead", 0o644),
        ("share/fish/vendor_completions.d/bulkhead.fish", 0o644),
    ] {
        let status = fs::metadata(installed(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(status.len() > 0, "{path}");
        assert_eq!(status.permissions().mode() & 0o777, mode, "{path}");
    }

    // A newcomer's first container, but for where things are.
    for (key, path) in [
        ("vmm", "libexec/bulkhead/bulkhead-vmm"),
        ("kernel", "share/bulkhead/vmlinux"),
        ("initramfs", "share/bulkhead/initramfs.cpio"),
    ] {
        let path = installed(path).to_str().unwrap().to_owned();
        host.settings.insert(key.into(), path.into());
    }
    let config = host.file("installed.toml", host.settings.to_string());
    let bundle = host.directory("demo");
    fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
    fs::copy("/bin/busybox", bundle.join("rootfs/bin/sh")).unwrap();
    let bulkhead = |arguments: &[&str]| {
        let mut command = Command::new(installed("bin/bulkhead"));
        command
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(host.state());
        command.args(arguments).current_dir(&bundle);
        Invocation::new(command)
    };
    bulkhead(&["spec"]).output().success();
    let id = host.new_id();
    let mut shell = bulkhead(&["run", &id]).spawn_on_terminal(WindowSize {
        rows: 24,
        columns: 80,
    });
    shell.wait_for("#");
    shell.send("echo process $$; exit 7\r");
    let said = shell.wait().with_code(7).stdout();
    assert!(said.contains("process 1\r"), "{said}");
}
