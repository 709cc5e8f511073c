//! The VMM by itself, without the runtime: its requests, its ends, its devices.

mod cgroup;
mod exec;
mod microvm;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use bulkhead_agent_protocol::messages::{
    DeleteRequest, DescribeRequest, Disk, ReleaseDisksRequest, ShutdownRequest, Storage,
};
use bulkhead_agent_protocol::{DISK_FOLDER, SHARED_FOLDER, SHARED_TAG, STREAM_PORT};
use bulkhead_tests::harness::{Host, default_config};
use bulkhead_tests::pvh;
use bulkhead_vmm::control::{Request, Response};
use bulkhead_vmm::report::Outcome;
use microvm::MicroVm;
use serde_json::{Value, json};
use tokio::time::timeout;
use ttrpc::context::Context;

/// How long a paused guest is given to answer, which it must not. One that runs answers in a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

/// The counters of the guest's processors.
fn processors(vm: &mut MicroVm) -> Value {
    match vm.ask(&Request::Metrics {}) {
        Response::Metrics(mut metrics) => {
            assert!(metrics["uptime_us"].as_u64() > Some(0), "{metrics:?}");
            metrics.remove("vcpus").unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// The folder that the VMM shares, where the runtime has it mounted.
fn shared_folder() -> Storage {
    Storage {
        source: SHARED_TAG.to_owned(),
        fstype: "virtiofs".to_owned(),
        target: SHARED_FOLDER.to_owned(),
        ..Storage::default()
    }
}

fn spec(root: &str, args: &[&str]) -> Value {
    let mut spec = default_config();
    spec["root"]["path"] = root.into();
    spec["process"]["args"] = json!(args);
    spec
}

#[tokio::test]
async fn a_paused_guest_does_nothing_until_it_is_resumed() {
    let host = Host::new();
    let mut vm = MicroVm::start(&host, &host.directory("root"), |_| {});
    let agent = vm.agent();
    let (context, request) = (Context::default, DescribeRequest::default());
    let described = agent.0.describe(context(), &request).await.unwrap();
    assert!(!described.kernel_release.is_empty());

    assert_eq!(vm.ask(&Request::Pause {}), Response::Done);
    let before = processors(&mut vm);
    assert!(before[0]["mmio_exits"].as_u64() > Some(0), "{before}");
    let mut answer = std::pin::pin!(agent.0.describe(context(), &request));
    assert!(timeout(PATIENCE, &mut answer).await.is_err(), "it answers");
    assert_eq!(processors(&mut vm), before, "it runs");

    assert_eq!(vm.ask(&Request::Resume {}), Response::Done);
    assert_eq!(answer.await.unwrap(), described);

    // A guest that is paused can be stopped as well.
    assert_eq!(vm.ask(&Request::Pause {}), Response::Done);
    assert_eq!(vm.ask(&Request::Stop {}), Response::Done);
    let (report, status) = vm.end();
    assert_eq!((report.outcome, status), (Outcome::Stopped, 0));
}

#[tokio::test]
async fn what_the_guest_prints_is_kept_and_passed_on() {
    let host = Host::new();
    let (output, console) = io::pipe().unwrap();
    let mut vm = MicroVm::start(&host, &host.directory("root"), |launch| {
        launch.console = Some(console.into());
    });
    let _agent = vm.agent();
    // The agent complains of a stream that has no name.
    vm.connect(STREAM_PORT).write_all(b"\n").unwrap();
    let is_complaint = |line: &str| line.contains("a stream without a name");
    let mut lines = BufReader::new(output).lines().map(Result::unwrap);
    assert!(lines.any(|line| is_complaint(&line)));
    match vm.ask(&Request::Console {}) {
        Response::Console { lines } => assert!(lines.iter().any(|line| is_complaint(line)), "{lines:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(vm.ask(&Request::Stop {}), Response::Done);
    let (report, status) = vm.end();
    assert_eq!((report.outcome, status), (Outcome::Stopped, 0));
    assert!(
        report.console.iter().any(|line| is_complaint(line)),
        "{:?}",
        report.console
    );
}

#[tokio::test]
async fn disks_come_and_go_while_the_guest_runs() {
    let host = Host::new();
    let bundle = host.bundle(|_| {});
    let image = host.folder().join("image");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-d"])
        .arg(bundle.rootfs())
        .arg(&image)
        .arg("16M")
        .status();
    assert!(made.unwrap().success());

    let mut vm = MicroVm::start(&host, &host.directory("root"), |launch| launch.disk_slots = 1);
    let agent = vm.agent();
    let attach = |id: &str, read_only| Request::AttachBlock {
        id: id.to_owned(),
        read_only,
    };
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let Response::Attached { slot } = vm.ask_with_file(&attach("system", false), &file) else {
        panic!("it is not attached");
    };
    assert_eq!(
        vm.ask_with_file(&attach("system", true), &file),
        Response::Attached { slot },
        "it is there already"
    );
    match vm.ask_with_file(&attach("other", false), &file) {
        Response::Error { message } => {
            assert!(message.contains("no slot is free for another disk"), "{message}");
        }
        other => panic!("{other:?}"),
    }

    let root = format!("{DISK_FOLDER}/c/0");
    let storage = Storage {
        source: "system".to_owned(),
        fstype: "ext4".to_owned(),
        target: root.clone(),
        ..Storage::default()
    };
    let script = "echo written > /tmp/new; sha256sum /bin/busybox";
    let disk = Disk {
        id: "system".to_owned(),
        slot: Some(u32::try_from(slot).unwrap()),
        ..Disk::default()
    };
    let mut stdout = vm
        .run_with_disks(
            &agent,
            "c",
            &spec(&root, &["sh", "-c", script]),
            storage,
            vec![disk],
        )
        .await;
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    let end = agent.wait("c").await;
    assert_eq!((end.exit_code, end.signal), (0, 0), "{text}");
    let expected = Command::new("sha256sum")
        .arg("/bin/busybox")
        .output()
        .unwrap()
        .stdout;
    assert_eq!(text.as_bytes(), expected);

    // With its last container the disk goes, and all is written back.
    let delete = DeleteRequest {
        container_id: "c".to_owned(),
        ..DeleteRequest::default()
    };
    let release = ReleaseDisksRequest {
        disks: vec!["system".to_owned()],
        ..ReleaseDisksRequest::default()
    };
    let released = async || {
        let answer = agent.0.release_disks(Context::default(), &release).await;
        answer.unwrap().disks
    };
    assert_eq!(released().await, Vec::<String>::new());
    agent.0.delete(Context::default(), &delete).await.unwrap();
    assert_eq!(released().await, ["system"]);
    let detach = Request::DetachBlock {
        id: "system".to_owned(),
    };
    assert_eq!(vm.ask(&detach), Response::Done);
    let found = Command::new("debugfs")
        .args(["-R", "cat /tmp/new"])
        .arg(&image)
        .output();
    assert_eq!(found.unwrap().stdout, b"written\n");

    // Another one takes its place.
    assert_eq!(
        vm.ask_with_file(&attach("other", false), &file),
        Response::Attached { slot }
    );
    let disk = Disk {
        id: "other".to_owned(),
        slot: Some(u32::try_from(slot).unwrap()),
        ..Disk::default()
    };
    let storage = Storage {
        source: "other".to_owned(),
        fstype: "ext4".to_owned(),
        target: root.clone(),
        ..Storage::default()
    };
    let cat = spec(&root, &["cat", "/tmp/new"]);
    let mut stdout = vm.run_with_disks(&agent, "c", &cat, storage, vec![disk]).await;
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "written\n");
    agent.wait("c").await;

    // The agent writes everything back before it switches the guest off.
    let shutdown = ShutdownRequest::default();
    agent.0.shutdown(Context::default(), &shutdown).await.unwrap();
    let (report, status) = vm.end();
    assert_eq!((report.outcome, status), (Outcome::PowerOff, 0));
}

#[test]
fn a_triple_fault_is_reported_as_one() {
    let host = Host::new();
    let kernel = host.file("faulty", pvh::elf(&faulty_guest()));
    let vm = MicroVm::start(&host, &host.directory("root"), |launch| {
        launch.kernel = File::open(kernel).unwrap().into();
        launch.initramfs = None;
    });
    let (report, status) = vm.end();
    assert_eq!((report.outcome, status), (Outcome::TripleFault, 1));
}

/// `mov eax, table; lidt [eax]; ud2`, and behind it a table of limit 0: the same in 32-bit and 64-bit mode.
fn faulty_guest() -> Vec<u8> {
    const LENGTH: u32 = 10;
    let mut code = vec![0xb8];
    code.extend((pvh::ADDRESS + LENGTH).to_le_bytes());
    code.extend([0x0f, 0x01, 0x18, 0x0f, 0x0b]);
    code.extend([0; 10]);
    code
}

#[tokio::test]
async fn hundreds_of_streams_in_each_direction_at_once() {
    const STREAMS: usize = 300;
    let host = Host::new();
    let bundle = host.bundle(|_| {}).with_program("workload");
    let mut vm = MicroVm::start(&host, bundle.folder(), |launch| {
        launch.filesystem = Some(SHARED_TAG.to_owned());
    });
    let agent = vm.agent();
    let root = format!("{SHARED_FOLDER}/rootfs");
    let args = ["workload", "vsock", &STREAMS.to_string()];
    let _stdout = vm.run(&agent, "c", &spec(&root, &args), shared_folder()).await;

    // It dials, then accepts, and sends back what it got on each stream once all have ended.
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (port, stream) = vm.accept();
        assert_eq!(port, 7000);
        streams.push(stream);
    }
    streams.extend((0..STREAMS).map(|_| vm.connect(7000)));
    let message = |number: usize| format!("this is stream {number}, ").repeat(200);
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(message(number).as_bytes()).unwrap();
    }
    streams
        .iter()
        .for_each(|stream: &UnixStream| stream.shutdown(Shutdown::Write).unwrap());
    for (number, mut stream) in streams.into_iter().enumerate() {
        let mut echo = String::new();
        stream.read_to_string(&mut echo).unwrap();
        assert!(echo == message(number), "stream {number}: {} bytes", echo.len());
    }
    let end = agent.wait("c").await;
    assert_eq!((end.exit_code, end.signal), (0, 0));
    assert_eq!(vm.ask(&Request::Stop {}), Response::Done);
    assert_eq!(vm.end().0.outcome, Outcome::Stopped);
}
