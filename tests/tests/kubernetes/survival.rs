//! What goes down on the host, and what becomes of pods.

use std::fs;
use std::thread;

use bulkhead_tests::harness::processes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::node::Node;

/// The one process whose command line has all of `words`.
fn process_with(words: &[&str]) -> Pid {
    let found: Vec<Pid> = processes::all()
        .into_iter()
        .filter(|pid| {
            let line = fs::read(processes::file(*pid, "cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            words.iter().all(|word| line.contains(word))
        })
        .collect();
    match found[..] {
        [pid] => pid,
        _ => panic!("{} processes with {words:?}, not one", found.len()),
    }
}

#[test]
fn pods_go_on_while_containerd_is_down() {
    let node = Node::new();
    let door = node.volume("door");
    let pod = node.pod(|_| ());
    let run = |script: &str| {
        pod.run_with(|config| {
            config["command"] = json!(["sh", "-c", script]);
            config["mounts"] = json!([{"container_path": "/door", "host_path": door}]);
        })
    };
    let lasting = run("trap 'echo stopping; exit 5' TERM; echo before
        until [ -e /door/TERM ]; do sleep 0.1; done; echo during the first; touch /door/said-TERM
        until [ -e /door/KILL ]; do sleep 0.1; done; echo during the second; touch /door/said-KILL
        while :; do sleep 1000 & wait $!; done");
    lasting.wait_for("before\n");
    for (name, signal) in [("TERM", Signal::SIGTERM), ("KILL", Signal::SIGKILL)] {
        let ending = run(&format!(
            "echo ready; until [ -e /door/said-{name} ]; do sleep 0.1; done; echo last words; touch /door/{name}-ended; exit 9"
        ));
        ending.wait_for("ready\n");
        node.containerd.stop(signal);
        fs::write(door.join(name), "").unwrap();
        node.wait_for("a word from inside", || {
            door.join(format!("{name}-ended")).exists().then_some(())
        });
        node.start();
        assert!(pod.is_ready());
        assert!(lasting.is_running());
        let ended = ending.wait();
        assert_eq!(ended.exit_code, 9, "{ended}");
        // What it wrote after the last reader had gone may be gone with it; the rest is there.
        assert!(ending.output("stdout").starts_with("ready\n"));
        ending.remove();
    }
    lasting.wait_for("during the second\n");
    assert_eq!(lasting.exec("echo still here"), "still here\n");
    lasting.stop(60);
    assert_eq!(lasting.wait().exit_code, 5);
    assert_eq!(
        lasting.output("stdout"),
        "before\nduring the first\nduring the second\nstopping\n"
    );
    pod.remove();
}

#[test]
fn a_pod_whose_shim_or_machine_is_killed_has_ended() {
    let node = Node::new();
    for words in [&["containerd-shim", "-id"][..], &["bulkhead-vmm"]] {
        let pod = node.pod(|_| ());
        let first = pod.run("exec sleep 1000000");
        let second = pod.run("exec sleep 1000000");
        kill(process_with(words), Signal::SIGKILL).unwrap();
        for container in [&first, &second] {
            let ended = container.wait();
            assert_ne!(ended.exit_code, 0, "{ended}");
        }
        node.wait_for("the pod's end", || (!pod.is_ready()).then_some(()));
        pod.remove();
        assert_eq!(node.containerd.leftovers(), Vec::<String>::new(), "{words:?}");
    }
}

#[test]
fn streams_hold_nobody_up() {
    let node = Node::new();
    let pod = node.pod(|_| ());
    // Its output outlives it, in the hands of a process that it has left.
    let leaving = pod.run("sleep 1000000 & echo left; exit 4");
    assert_eq!(leaving.wait().exit_code, 4);
    assert_eq!(leaving.output("stdout"), "left\n");
    // Such a one lives on in a session of its own, among process ids that all share.
    let parent = pod.run_with(|config| {
        config["linux"]["security_context"]["namespace_options"]["pid"] = json!("POD");
        config["command"] = json!(["sh", "-c", "setsid sleep 222222 & echo left; exit 5"]);
    });
    assert_eq!(parent.wait().exit_code, 5);
    assert_eq!(parent.output("stdout"), "left\n");
    // It outlives its output.
    let silent = pod.run("exec >&- 2>&-; sleep 1; exit 6");
    assert_eq!(silent.wait().exit_code, 6);

    // A further program's output outlives it. containerd waits for its end, and for nothing longer than that.
    let idle = pod.run("exec sleep 1000000");
    let left = ["sh", "-c", "setsid sleep 333333 & echo hi; exit 7"];
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| idle.try_exec(&left, 0));
        node.wait_for("the process that is left", || {
            let processes = idle.exec("ps -o args");
            (processes.contains("sleep 333333") && !processes.contains("echo hi")).then_some(())
        });
        idle.exec("kill $(pidof sleep | tr ' ' '\\n' | grep -vx 1)");
        answer.join().expect("an answer")
    });
    let answer = answer.unwrap_or_else(|status| panic!("{status}"));
    assert_eq!((answer.exit_code, &answer.stdout[..]), (7, &b"hi\n"[..]));
    // It is no more in the way of the end of all.
    thread::scope(|scope| {
        let answer = scope.spawn(|| idle.try_exec(&left, 0));
        node.wait_for("the process that is left", || {
            idle.exec("ps -o args").contains("sleep 333333").then_some(())
        });
        idle.stop(0);
        let answer = answer.join().expect("an answer");
        let answer = answer.unwrap_or_else(|status| panic!("{status}"));
        assert_eq!((answer.exit_code, &answer.stdout[..]), (7, &b"hi\n"[..]));
    });
    pod.remove();
}
