//! The VMM's process seen from outside, as far as that needs no KVM: its arguments, its start, its reports.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use bulkhead_vmm::config::MemoryBacking;
use bulkhead_vmm::launch::{Block, Image, Launch, LaunchError, Vsock};
use bulkhead_vmm::report::{Outcome, Report, Stage};
use tempfile::TempDir;

const VMM: &str = env!("CARGO_BIN_EXE_bulkhead-vmm");

fn run(arguments: &[&str]) -> Output {
    Command::new(VMM).args(arguments).output().unwrap()
}

/// Runs the VMM with that configuration on descriptor 3.
fn run_configured(json: &str) -> Output {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(json.as_bytes()).unwrap();
    drop(writer);
    let mut command = Command::new(VMM);
    command.args(["--config-fd", "3"]);
    let source = reader.as_raw_fd();
    // SAFETY: dup and dup2 are async-signal-safe. By way of the copy, the flag to close it is cleared in any case.
    unsafe {
        command.pre_exec(move || {
            let copy = libc::dup(source);
            if copy < 0 || libc::dup2(copy, 3) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn null() -> OwnedFd {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into()
}

/// A VMM whose `/dev/kvm` is none.
fn launch<'a>(binary: &'a File, directory: &'a File, stderr: &'a OwnedFd) -> Launch<'a> {
    Launch {
        binary,
        directory: directory.as_fd(),
        cgroup: None,
        stderr: stderr.as_fd(),
        kvm: null(),
        vcpus: 1,
        max_vcpus: None,
        memory_mib: 128,
        max_memory_mib: None,
        memory_backing: MemoryBacking::default(),
        kernel: null(),
        initramfs: None,
        command_line: String::new(),
        vsock: None,
        filesystem: None,
        blocks: Vec::new(),
        rng: true,
        page_reporting: false,
        network_slots: 0,
        disk_slots: 0,
        console: None,
        control: None,
    }
}

/// Starts it, after `change`, and returns at which stage it says that it failed, and why.
fn failure(change: impl FnOnce(&mut Launch)) -> (Stage, String) {
    let (binary, directory) = (File::open(VMM).unwrap(), TempDir::new().unwrap());
    let (folder, errors) = (File::open(directory.path()).unwrap(), null());
    let mut launch = launch(&binary, &folder, &errors);
    change(&mut launch);
    let mut vmm = launch.start().unwrap();
    let report = vmm.read_report().unwrap();
    vmm.reap().unwrap();
    match report {
        Some(Report {
            outcome: Outcome::Failed { stage, message },
            ..
        }) => (stage, message),
        other => panic!("not a failure: {other:?}"),
    }
}

fn block(id: &str) -> Block {
    Block {
        id: id.to_owned(),
        image: Image::raw(File::open("/dev/null").unwrap().into()),
        read_only: false,
    }
}

#[test]
fn it_explains_itself() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .contains("Usage: bulkhead-vmm --config-fd N")
    );
    let version = run(&["--version"]);
    assert_eq!(
        version.stdout,
        format!("bulkhead-vmm {}\n", env!("CARGO_PKG_VERSION")).as_bytes()
    );
    for wrong in [&[][..], &["--config-fd"], &["--config"], &["--version", "--help"]] {
        assert!(stderr(&run(wrong)).contains("Usage:"), "{wrong:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_an_error_on_standard_error() {
    assert!(stderr(&run(&["--config-fd", "three"])).contains("--config-fd three"));
    assert!(stderr(&run(&["--config-fd", "2"])).contains("start at 3"));
    assert!(stderr(&run(&["--config-fd", "77"])).contains("descriptor 77, which is not open"));
    assert!(stderr(&run_configured("")).contains("the configuration is not as it should be"));
    assert!(stderr(&run_configured("{\"kvm\": 4}")).contains("missing field"));
    let unknown = r#"{"kvm": 4, "vcpus": 1, "memory_mib": 64, "kernel": {"image": 5}, "kernal": {}}"#;
    assert!(stderr(&run_configured(unknown)).contains("unknown field `kernal`"));
    let report_not_open = r#"{"kvm": 4, "vcpus": 1, "memory_mib": 64, "kernel": {"image": 5}, "report": 66}"#;
    assert!(stderr(&run_configured(report_not_open)).contains("`report` names descriptor 66"));
}

#[test]
fn what_fails_later_is_reported_with_its_stage() {
    let (stage, message) = failure(|_| {});
    assert_eq!(stage, Stage::Kvm);
    assert!(message.contains("does not speak KVM's API"), "{message}");
}

/// What a case changes in a microVM.
type Change = fn(&mut Launch);

#[test]
fn numbers_and_names_are_checked() {
    let cases: [(Change, &str); 8] = [
        (|launch| launch.vcpus = 0, "`vcpus` is 0; it must be 1 to 64"),
        (|launch| launch.vcpus = 65, "`vcpus` is 65"),
        (
            |launch| launch.memory_mib = 15,
            "`memory_mib` is 15; it must be 16 to",
        ),
        (
            |launch| launch.filesystem = Some(String::new()),
            "`filesystem.tag`",
        ),
        (|launch| launch.filesystem = Some("x".repeat(37)), "1 to 36 bytes"),
        (
            |launch| {
                launch.vsock = Some(Vsock {
                    cid: 2,
                    listener: null(),
                    uplink: None,
                });
            },
            "`vsock.cid` is 2",
        ),
        (
            |launch| launch.blocks = vec![block("disk of mine")],
            "`blocks.id`",
        ),
        (
            |launch| launch.blocks = vec![block("disk"), block("disk")],
            "two block devices have the id \"disk\"",
        ),
    ];
    for (change, expected) in cases {
        let (stage, message) = failure(change);
        assert_eq!(stage, Stage::Configuration);
        assert!(
            message.contains(expected),
            "{message:?} does not say {expected:?}"
        );
    }
}

#[test]
fn a_process_that_cannot_become_the_vmm_says_at_what_it_failed() {
    let directory = TempDir::new().unwrap();
    let (folder, file) = (
        File::open(directory.path()).unwrap(),
        tempfile::tempfile().unwrap(),
    );
    let (binary, errors) = (File::open(VMM).unwrap(), null());
    let cases = [
        (launch(&binary, &file, &errors), "enter its working directory"),
        (launch(&file, &folder, &errors), "execute the VMM's binary"),
    ];
    for (launch, expected) in cases {
        match launch.start() {
            Err(LaunchError::Become(step, _)) => assert_eq!(step, expected),
            other => panic!("{expected}: {:?}", other.map(|vmm| vmm.pid)),
        }
    }
    let mut outside = launch(&binary, &folder, &errors);
    outside.cgroup = Some(folder.as_fd());
    assert!(
        matches!(outside.start(), Err(LaunchError::Clone(_))),
        "not a control group"
    );
}

#[test]
fn a_process_without_a_report_is_told_from_one_with() {
    let directory = TempDir::new().unwrap();
    let (folder, errors) = (File::open(directory.path()).unwrap(), null());
    // A program that does not understand the arguments.
    let binary = File::open("/bin/sleep").unwrap();
    let mut vmm = launch(&binary, &folder, &errors).start().unwrap();
    vmm.kill();
    vmm.reap().unwrap();
    vmm.kill();
    assert_eq!(vmm.read_report().unwrap(), None);
}
