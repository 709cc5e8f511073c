//! Nothing is lost between a pipe on the host and the workload.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::thread;

use bulkhead_tests::harness::{Bundle, Host, Running};
use bulkhead_tests::pattern::{self, Checker};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use sha2::{Digest, Sha256};

const MIB_64: usize = 64 << 20;

/// Starts the bundle with its output on a new pipe, given with a large buffer in front.
fn start(host: &Host, bundle: &Bundle) -> (Running, BufReader<PipeReader>) {
    let (reader, writer) = io::pipe().unwrap();
    let running = host.run(bundle).spawn_with_stdout(writer);
    (running, BufReader::with_capacity(1 << 20, reader))
}

fn burst(host: &Host, bytes: usize) -> Bundle {
    let bundle =
        host.bundle(|config| config["process"]["args"] = json!(["workload", "burst", bytes.to_string()]));
    bundle.with_program("workload")
}

#[test]
fn sixty_four_mib_pass_from_stdin_to_stdout() {
    let host = Host::new();
    let mut sent = Sha256::new();
    pattern::write(&mut sent, MIB_64).unwrap();
    let (mut running, mut reader) = start(&host, &host.script("exec cat"));
    let mut stdin = running.stdin.take().unwrap();
    let feeding = thread::spawn(move || pattern::write(&mut stdin, MIB_64));
    let mut received = Sha256::new();
    let length = io::copy(&mut reader, &mut received).unwrap();
    feeding.join().unwrap().unwrap();
    running.wait().success();
    assert_eq!(length, MIB_64 as u64);
    assert_eq!(received.finalize(), sent.finalize());
}

/// Output that is written just before the end is where runtimes lose bytes, now and then.
fn burst_ten_times() {
    let host = Host::new();
    let bundle = burst(&host, MIB_64);
    for run in 1..=10 {
        let (running, mut reader) = start(&host, &bundle);
        let mut checker = Checker::new();
        io::copy(&mut reader, &mut checker).unwrap();
        running.wait().success();
        assert_eq!(checker.finish(), Ok(MIB_64), "run {run}");
    }
}

/// In two halves, which can run side by side.
#[test]
fn a_burst_right_before_the_exit_arrives_whole_in_runs_1_to_10() {
    burst_ten_times();
}

#[test]
fn a_burst_right_before_the_exit_arrives_whole_in_runs_11_to_20() {
    burst_ten_times();
}

#[test]
fn output_that_finds_no_room_is_an_error() {
    let host = Host::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let running = host.run(&host.script("echo lost")).spawn_with_stdout(full);
    let output = running.wait().with_code(1);
    let text = "run container: stdout: No space left on device (os error 28); output was lost";
    assert!(output.stderr().contains(text), "{}", output.stderr());
}

/// The program has ended by then, and its exit status alone would say that all is well. Of what it wrote, about 300 kB fit
/// into the host's socket and pipe, and about 400 kB more into the VMM and the guest: with more it would not end, with less
/// nothing would be lost.
#[test]
fn output_that_a_dying_vmm_takes_with_it_is_an_error() {
    let host = Host::new();
    let bundle = host.script("head -c 500000 /dev/zero");
    let log = host.folder().join("log");
    mkfifo(&log, Mode::S_IRWXU).unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let running = host
        .bulkhead()
        .args(["--debug", "--log"])
        .arg(&log)
        .args(["run", "--bundle"])
        .arg(bundle.folder())
        .arg(host.new_id())
        .spawn_with_stdout(writer);
    let mut log = BufReader::new(File::open(&log).unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("program ended")));
    kill(running.vmm(), Signal::SIGKILL).unwrap();
    let received = io::copy(&mut reader, &mut io::sink()).unwrap();
    assert!(received < 500_000, "all of it was on the host already");
    let stderr = running.wait().with_code(1).stderr();
    assert!(stderr.contains("the VMM was killed by signal 9"), "{stderr}");
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
    let (running, mut reader) = start(&host, &bundle);
    reader.read_exact(&mut [0; 4096]).unwrap();
    drop(reader);
    let output = running.wait();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    const LENGTH: usize = 4 << 20;
    let host = Host::new();
    let (running, reader) = start(&host, &burst(&host, LENGTH));
    let mut reader = BufReader::with_capacity(777, reader.into_inner());
    let mut checker = Checker::new();
    io::copy(&mut reader, &mut checker).unwrap();
    running.wait().success();
    assert_eq!(checker.finish(), Ok(LENGTH));
}
