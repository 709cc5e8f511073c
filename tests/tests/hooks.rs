//! Hooks are run at their points, where they should be, and their failures end what the specification says.

use std::fs;
use std::path::{Path, PathBuf};

use bulkhead_tests::harness::{Bundle, Host, processes};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

/// A hook that runs a script of the host's shell.
fn shell(script: &str) -> Value {
    json!({
        "path": "/bin/sh",
        "args": ["hook", "-c", script],
        "env": ["PATH=/usr/bin:/bin", "GREETING=hello"],
        "timeout": 60,
    })
}

/// A hook that notes its name and what it reads.
fn noting(name: &str, notes: &Path) -> Value {
    shell(&format!(
        "echo \"{name} $GREETING $(cat)\" >> {}",
        notes.display()
    ))
}

/// The notes: names, and the states with them.
fn notes(file: &Path) -> Vec<(String, Value)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (name, state) = line.split_once(" hello ").expect("a greeting");
            (name.to_owned(), serde_json::from_str(state).expect("a state"))
        })
        .collect()
}

fn names(file: &Path) -> Vec<String> {
    notes(file).into_iter().map(|(name, _)| name).collect()
}

/// A bundle with a noting poststop hook and these.
fn bundle(host: &Host, file: &Path, hooks: &Value) -> Bundle {
    host.bundle(|config| {
        config["process"]["args"] = json!(["echo", "the program"]);
        config["annotations"] = json!({"key": "value"});
        config["hooks"] = hooks.clone();
        config["hooks"]["poststop"] = json!([shell("exit 1"), noting("poststop", file)]);
    })
}

#[test]
fn every_hook_runs_at_its_point_and_is_told_the_state() {
    let host = Host::new();
    let file = host.folder().join("notes");
    let namespaces = host.folder().join("namespaces");
    let look = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); \
         for kind in net mnt cgroup; do readlink /proc/self/ns/$kind; done > {0}; \
         readlink /proc/$pid/ns/net >> {0}; grep SigBlk /proc/self/status >> {0}; cat /proc/self/cgroup >> {0}",
        namespaces.display()
    );
    let bundle = bundle(
        &host,
        &file,
        &json!({
            "prestart": [noting("prestart", &file), shell(&look)],
            "createRuntime": [noting("createRuntime", &file)],
            "createContainer": [{
                "path": "/bin/busybox",
                "args": ["sh", "-c", "cd /run/bulkhead/shared/*/rootfs/tmp; read -r state; echo \"$state\" > created"],
            }],
            "startContainer": [{
                "path": "/bin/sh",
                "args": ["sh", "-c", "read -r state; { echo \"$state\"; echo \"$$ $GREETING\"; /bin/id -u; } > /tmp/state"],
                "env": ["GREETING=hello"],
            }],
            "poststart": [noting("poststart", &file)],
        }),
    );
    let rootfs = bundle.rootfs();
    fs::set_permissions(
        rootfs.join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let id = host.new_id();
    assert_eq!(
        host.run_as(&bundle, &id).output().with_code(0).stdout(),
        "the program\n"
    );

    let notes = notes(&file);
    let told: Vec<_> = notes
        .iter()
        .map(|(name, state)| (name.as_str(), state["status"].as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("prestart", Some("creating")),
            ("createRuntime", Some("creating")),
            ("poststart", Some("running")),
            ("poststop", Some("stopped")),
        ]
    );
    for (name, state) in &notes {
        assert_eq!(state["id"], json!(id), "{name}");
        assert_eq!(state["bundle"], json!(bundle.folder()), "{name}");
        assert_eq!(state["annotations"], json!({"key": "value"}), "{name}");
        assert_eq!(state["ociVersion"], "1.3.0", "{name}");
        assert_eq!(
            state["pid"].as_i64().is_some_and(|pid| pid > 0),
            name != "poststop",
            "{name}"
        );
    }

    let seen = fs::read_to_string(namespaces).unwrap();
    let seen: Vec<_> = seen.lines().collect();
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    for (kind, seen) in ["net", "mnt", "cgroup"].iter().zip(&seen) {
        assert_eq!(own(kind).to_str(), Some(*seen), "the caller's");
    }
    assert_ne!(
        seen[3], seen[0],
        "the container's stand-in has a network of its own"
    );
    assert_eq!(seen[4], "SigBlk:\t0000000000000000");
    assert_eq!(
        seen[5..].join("\n"),
        fs::read_to_string("/proc/self/cgroup").unwrap().trim_end()
    );

    let lines = |name: &str| fs::read_to_string(rootfs.join("tmp").join(name)).unwrap();
    let created: Value = serde_json::from_str(lines("created").trim()).unwrap();
    assert_eq!(
        (&created["status"], &created["pid"]),
        (&json!("creating"), &json!(1))
    );
    assert_eq!(
        (&created["id"], &created["bundle"]),
        (&json!(id), &json!(bundle.folder()))
    );
    let started = lines("state");
    let started: Vec<_> = started.lines().collect();
    let state: Value = serde_json::from_str(started[0]).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&json!("created"), &json!(1)));
    assert!(started[1].ends_with(" hello") && started[2] == "0", "{started:?}");
}

#[test]
fn a_failing_hook_before_the_program_keeps_it_from_running() {
    let host = Host::new();
    for (list, hook) in [
        ("prestart", shell("echo no luck >&2; exit 3")),
        ("createRuntime", shell("echo no luck >&2; exit 3")),
        (
            "createContainer",
            json!({"path": "/bin/busybox", "args": ["sh", "-c", "echo no luck >&2; exit 3"]}),
        ),
        (
            "startContainer",
            json!({"path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"]}),
        ),
    ] {
        let file = host.folder().join(list);
        let bundle = bundle(&host, &file, &json!({list: [hook, hook]}));
        let line = host.run(&bundle).output().refusal();
        assert!(line.contains(&format!("hooks.{list}[0]: hook /")), "{line}");
        assert!(line.ends_with(": exit status 3: no luck"), "{line}");
        assert_eq!(names(&file), ["poststop"], "{list}");
    }
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    let host = Host::new();
    let file = host.folder().join("notes");
    let hook = json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1});
    let line = host
        .run(&bundle(&host, &file, &json!({"createRuntime": [hook]})))
        .output()
        .refusal();
    assert!(
        line.ends_with("hooks.createRuntime[0]: hook /bin/sleep: killed after its timeout of 1 s"),
        "{line}"
    );
    assert_eq!(names(&file), ["poststop"]);
}

#[test]
fn a_failing_poststart_hook_stops_the_program() {
    let host = Host::new();
    let file = host.folder().join("notes");
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["hooks"] = json!({"poststart": [shell("exit 7")], "poststop": [noting("poststop", &file)]});
    });
    let output = host.run(&bundle).output().with_code(1);
    assert_eq!(
        output.stderr(),
        "bulkhead: hooks.poststart[0]: hook /bin/sh: exit status 7\n"
    );
    assert_eq!(names(&file), ["poststop"]);

    let container = host.create(&bundle);
    let line = container.command("start").output().refusal();
    assert!(line.contains("hooks.poststart[0]"), "{line}");
    let _ = container.wait();
    assert_eq!(container.status(), "stopped");
    container.delete();
    assert_eq!(names(&file), ["poststop", "poststop"]);
}

#[test]
fn hooks_that_are_none_are_refused() {
    let host = Host::new();
    for (list, hook, words) in [
        (
            "prestart",
            json!({"path": "bin/sh"}),
            ["hooks.prestart[0].path", "absolute"],
        ),
        (
            "poststop",
            json!({"path": "/bin/sh", "timeout": 0}),
            ["hooks.poststop[0].timeout", "zero"],
        ),
        (
            "poststart",
            json!({"path": "/bin/sh", "env": ["A"]}),
            ["hooks.poststart[0].env", "NAME=value"],
        ),
        (
            "createContainer",
            json!({"path": "/no/such"}),
            ["hooks.createContainer[0].path", "does not exist"],
        ),
    ] {
        let bundle = host.bundle(|config| config["hooks"] = json!({list: [hook]}));
        let line = host.run(&bundle).output().refusal();
        for word in words {
            assert!(
                line.contains("config.json: ") && line.contains(word),
                "{word:?} is not in: {line}"
            );
        }
    }
}

#[test]
fn a_create_container_hook_that_needs_more_than_itself_is_told_what_it_has_to_be() {
    let host = Host::new();
    let script = host.file("script", "#!/bin/sh\n");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for program in [Path::new("/usr/bin/id"), &script] {
        let hooks = json!({"createContainer": [{"path": program}]});
        let bundle = host.bundle(|config| config["hooks"] = hooks);
        let line = host.run(&bundle).output().refusal();
        assert!(
            line.contains("hooks.createContainer[0]: ") && line.ends_with("make it a static executable"),
            "{line}"
        );
    }
}

/// A named pipe: who reads it waits until a hook has written to it.
fn pipe(host: &Host) -> PathBuf {
    let path = host.folder().join("pipe");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

/// A hook without a time limit that says that it runs, and then does so for ever.
fn endless(pipe: &Path) -> Value {
    let script = format!("echo runs > {}; sleep 1000 & wait", pipe.display());
    json!({"path": "/bin/sh", "args": ["hook", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

#[test]
fn a_signal_ends_a_hook_that_takes_for_ever_and_the_container_with_it() {
    let host = Host::new();
    let file = host.folder().join("notes");
    let pipe = pipe(&host);
    let bundle = |list: &str| {
        host.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            config["hooks"] = json!({list: [endless(&pipe)], "poststop": [noting("poststop", &file)]});
        })
    };
    let interrupted = |command: &str, list: &str, signal: Signal| {
        let running = host
            .bulkhead()
            .args([command, "--bundle"])
            .args([bundle(list).folder().as_os_str(), host.new_id().as_ref()])
            .spawn();
        assert_eq!(fs::read_to_string(&pipe).unwrap(), "runs\n");
        running.signal(signal);
        running.wait()
    };
    let created = interrupted("create", "createRuntime", Signal::SIGINT).with_code(1);
    assert_eq!(created.stderr(), "bulkhead: interrupted by signal 2\n");
    interrupted("run", "prestart", Signal::SIGTERM).with_code(128 + 15);
    let started = interrupted("run", "poststart", Signal::SIGTERM).with_code(1);
    assert_eq!(started.stderr(), "bulkhead: interrupted by signal 15\n");
    assert_eq!(names(&file), ["poststop"; 3]);

    let container = host.create(&bundle("poststart"));
    let start = container.command("start").spawn();
    assert_eq!(fs::read_to_string(&pipe).unwrap(), "runs\n");
    start.signal(Signal::SIGINT);
    let line = start.wait().refusal();
    assert!(
        line.ends_with("hooks.poststart[0]: interrupted by signal 2"),
        "{line}"
    );
    let _ = container.wait();
    container.delete();
}

#[test]
fn poststop_hooks_run_whoever_is_killed() {
    let host = Host::new();
    let file = host.folder().join("notes");
    let pipe = pipe(&host);
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo up; sleep 1000"]);
        let script = format!(
            "for kind in net mnt; do readlink /proc/self/ns/$kind; done > {}",
            pipe.display()
        );
        config["hooks"] = json!({"poststop": [noting("poststop", &file), shell(&script)]});
    });
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    let namespaces = format!("{}\n{}\n", own("net").display(), own("mnt").display());

    // The caller's process: the monitor removes everything.
    let running = host.run(&bundle).spawn();
    running.wait_for("up");
    running.signal(Signal::SIGKILL);
    assert_eq!(fs::read_to_string(&pipe).unwrap(), namespaces);
    drop(running);
    assert_eq!(names(&file), ["poststop"]);

    // Both of them: `delete` does.
    let id = host.new_id();
    let running = host.run_as(&bundle, &id).spawn();
    running.wait_for("up");
    let monitor = processes::descendant_named(running.pid(), "bulkhead");
    running.signal(Signal::SIGSTOP);
    kill(monitor, Signal::SIGKILL).unwrap();
    running.signal(Signal::SIGKILL);
    let delete = host.bulkhead().args(["delete", "--force", &id]).spawn();
    assert_eq!(fs::read_to_string(&pipe).unwrap(), namespaces);
    delete.wait().success();
    assert_eq!(names(&file), ["poststop"; 2]);
    assert_eq!(notes(&file)[1].1["id"], json!(id));
}
