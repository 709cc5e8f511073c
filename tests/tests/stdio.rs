//! Nothing is lost between a pipe on the host and the workload.

use bulkhead_tests::harness::Host;
use bulkhead_tests::pattern;
use serde_json::json;
use sha2::{Digest, Sha256};

const MIB_64: usize = 64 << 20;

#[test]
fn sixty_four_mib_pass_from_stdin_to_stdout() {
    let host = Host::new();
    let mut input = Vec::with_capacity(MIB_64);
    pattern::write(&mut input, MIB_64).unwrap();
    let sent = Sha256::digest(&input);
    let output = host
        .run(&host.script("exec cat"))
        .output_with_input(input)
        .with_code(0);
    assert_eq!(output.stdout.len(), MIB_64);
    assert_eq!(Sha256::digest(&output.stdout), sent);
    assert_eq!(output.stderr(), "");
}

/// Output that is written just before the end is where runtimes lose bytes, now and then.
#[test]
fn a_burst_right_before_the_exit_arrives_whole_twenty_times() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| config["process"]["args"] = json!(["workload", "burst", MIB_64.to_string()]))
        .with_program("workload");
    for run in 1..=20 {
        let output = host.run(&bundle).output().with_code(0);
        assert_eq!(output.stdout.len(), MIB_64, "run {run}");
        assert_eq!(pattern::check(&output.stdout), Ok(()), "run {run}");
    }
}

#[test]
fn stdin_and_stdout_are_a_conversation() {
    let host = Host::new();
    let script = "echo ready; while read -r line; do echo \"heard $line\"; done; echo end of file";
    let mut running = host.run(&host.script(script)).spawn();
    running.wait_for("ready");
    for line in ["one", "two"] {
        running.send(&format!("{line}\n"));
        running.wait_for(&format!("heard {line}\n"));
    }
    running.stdin = None;
    let output = running.wait().success();
    assert_eq!(output, "ready\nheard one\nheard two\nend of file\n");
}

#[test]
fn an_end_does_not_wait_for_stdin() {
    let host = Host::new();
    let mut running = host.run(&host.script("echo bye")).spawn();
    let stdin = running.stdin.take();
    assert_eq!(running.wait().success(), "bye\n");
    drop(stdin);
}

#[test]
fn a_reader_that_leaves_ends_the_writer() {
    let host = Host::new();
    let bundle = host.script("while echo more; do :; done 2>/dev/null; exit 3");
    let run = host.run(&bundle);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let running = run.spawn_with_stdout(writer);
    std::io::Read::read_exact(&mut reader, &mut [0; 4096]).unwrap();
    drop(reader);
    let output = running.wait();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    let host = Host::new();
    let bundle = host
        .bundle(|config| config["process"]["args"] = json!(["workload", "burst", (8 << 20).to_string()]))
        .with_program("workload");
    let run = host.run(&bundle);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let running = run.spawn_with_stdout(writer);
    let mut all = Vec::new();
    let mut little = [0; 777];
    loop {
        match std::io::Read::read(&mut reader, &mut little).unwrap() {
            0 => break,
            length => all.extend_from_slice(&little[..length]),
        }
    }
    running.wait().with_code(0);
    assert_eq!(all.len(), 8 << 20);
    assert_eq!(pattern::check(&all), Ok(()));
}
