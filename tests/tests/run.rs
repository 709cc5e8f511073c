//! A person runs a container and gets what it says, and how it ended.

use bulkhead_tests::harness::Host;
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn hello_comes_out_with_stdout_and_stderr_apart() {
    let host = Host::new();
    let output = host
        .run(&host.script("echo hello; echo oops >&2"))
        .output()
        .with_code(0);
    assert_eq!(output.stdout(), "hello\n");
    assert_eq!(output.stderr(), "oops\n");
}

#[test]
fn the_exit_code_is_the_workloads() {
    let host = Host::new();
    let output = host.run(&host.script("exit 42")).output().with_code(42);
    assert_eq!((output.stdout(), output.stderr()), Default::default());
}

#[test]
fn a_workload_killed_by_a_signal_gives_128_and_the_signal() {
    let host = Host::new();
    // A process cannot send SIGKILL to the first process of its pid namespace, but the kernel does at the hard limit.
    let spinning = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "while :; do :; done"]);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]);
    });
    let output = host.run(&spinning).output().with_code(137);
    assert_eq!((output.stdout(), output.stderr()), Default::default());
}

#[test]
fn a_crash_gives_the_signals_code() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| config["process"]["args"] = json!(["workload", "crash"]))
        .with_program("workload");
    host.run(&bundle).output().with_code(139);
}

#[test]
fn signals_reach_the_workload() {
    let host = Host::new();
    let script = "trap 'echo got TERM; exit 7' TERM; trap 'echo got USR1' USR1; trap 'echo got HUP' HUP
        echo ready; while :; do sleep 1000 & wait $!; done";
    let running = host.run(&host.script(script)).spawn();
    running.wait_for("ready");
    for (signal, answer) in [(Signal::SIGUSR1, "got USR1"), (Signal::SIGHUP, "got HUP")] {
        running.signal(signal);
        running.wait_for(answer);
    }
    running.signal(Signal::SIGTERM);
    let output = running.wait().with_code(7);
    assert_eq!(output.stdout(), "ready\ngot USR1\ngot HUP\ngot TERM\n");
}

#[test]
fn the_guest_has_a_kernel_of_its_own() {
    let host = Host::new();
    let guest = host.run(&host.script("cat /proc/version")).output().success();
    let ours = std::fs::read_to_string("/proc/version").unwrap();
    assert!(guest.starts_with("Linux version 6.12."), "{guest}");
    assert_ne!(guest, ours);
}

#[test]
fn the_process_is_as_asked_for() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let script = "pwd; echo \"$GREETING\"; echo ${CALLER-private}; umask; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj
            hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shm_rmid_forced; echo \"$0 $1\"; ls /proc/self/fd | wc -l";
        config["process"]["args"] = json!(["sh", "-c", script, "name", "an argument"]);
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["env"] = json!(["PATH=/nowhere:/bin", "GREETING=hello there"]);
        config["process"]["user"]["umask"] = json!(0o27);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]);
        config["process"]["oomScoreAdj"] = json!(321);
        config["hostname"] = json!("guesthouse");
        config["domainname"] = json!("example.org");
        config["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1"});
    });
    let mut run = host.run(&bundle);
    run.command().env("CALLER", "leaks");
    let output = run.output().success();
    let lines: Vec<_> = output.lines().collect();
    // The last one is 0, 1, 2 and the listing's own.
    assert_eq!(
        lines,
        [
            "/tmp",
            "hello there",
            "private",
            "0027",
            "77",
            "88",
            "321",
            "guesthouse",
            "example.org",
            "1",
            "name an argument",
            "4"
        ]
    );
}

#[test]
fn nothing_of_the_callers_environment_or_folder_is_needed() {
    let host = Host::new();
    let bundle = host.script("echo here");
    let mut run = host.bulkhead().args(["run", "elsewhere"]);
    run.command().env_clear().current_dir(bundle.folder());
    assert_eq!(
        run.output().success(),
        "here\n",
        "the bundle defaults to the working folder"
    );
}
