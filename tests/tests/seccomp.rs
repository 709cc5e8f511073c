//! Each thread of the VMM is confined to the system calls on its list, and dies with its process by any other.

use bulkhead_tests::harness::{Host, Running, make_root_image, processes};
use libc::c_long;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

const MAIN: &str = "bulkhead-vmm";
const KILLED: &str =
    "the VMM was killed by signal 31 (SIGSYS): it made a system call that is not on its thread's list";

/// A running machine with a disk, which is its root, and two processors.
fn start(host: &mut Host) -> Running {
    let image = host.folder().join("root.raw");
    make_root_image("erofs", &image);
    let folder = host.folder().to_str().unwrap().to_owned();
    host.settings.insert("vm_paths".into(), vec![folder].into());
    host.settings.insert("vcpus".into(), 2.into());
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!([
            "sh",
            "-c",
            "echo ready; read x; wc -c </bin/busybox >/dev/null; echo done"
        ]);
        config["vm"] = json!({"image": {"path": image}});
    });
    let running = host.run(&bundle).spawn();
    running.wait_for("ready");
    running
}

/// The thread of that name.
fn thread(vmm: Pid, name: &str) -> Pid {
    let threads = processes::threads(vmm);
    let named = |thread: &&Pid| processes::name(**thread).as_deref() == Some(name);
    *threads.iter().find(named).expect("a thread of that name")
}

#[test]
fn every_thread_has_its_filters() {
    let mut host = Host::new();
    let mut running = start(&mut host);
    let mut threads: Vec<_> = processes::threads(running.vmm())
        .into_iter()
        .map(|thread| {
            let field = |name| processes::status_field(thread, name);
            assert_eq!(field("NoNewPrivs"), "1");
            assert_eq!(field("Seccomp"), "2", "a mode of filters");
            (processes::name(thread).unwrap(), field("Seccomp_filters"))
        })
        .collect();
    // KVM has one of its own in the process, which never leaves the kernel.
    threads.retain(|(name, _)| !name.starts_with("kvm-"));
    threads.sort();
    // What the main thread starts has its filter as well as an own one.
    let expected = [
        (MAIN, "1"),
        ("vcpu0", "2"),
        ("vcpu1", "2"),
        ("virtio-blk", "2"),
        ("virtio-fs", "1"),
    ];
    assert_eq!(
        threads,
        expected.map(|(name, filters)| (name.to_owned(), filters.to_owned()))
    );
    running.send("\n");
    assert_eq!(running.wait().success(), "ready\ndone\n");
}

/// Stops a thread that waits in a system call, and has it make `number` with these arguments next. Returns its registers
/// as they were.
fn put(thread: Pid, number: c_long, arguments: [u64; 3]) -> libc::user_regs_struct {
    const SYSCALL: c_long = 0x050f;
    loop {
        ptrace::attach(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        let before = ptrace::getregs(thread).unwrap();
        let call = before.rip - 2;
        // Now and then it does something else.
        if ptrace::read(thread, call as ptrace::AddressType).unwrap() & 0xffff == SYSCALL {
            let [rdi, rsi, rdx] = arguments;
            let registers = libc::user_regs_struct {
                rax: number as u64,
                // None, so that the kernel has nothing to repeat.
                orig_rax: u64::MAX,
                rip: call,
                rdi,
                rsi,
                rdx,
                ..before
            };
            ptrace::setregs(thread, registers).unwrap();
            return before;
        }
        ptrace::detach(thread, None).unwrap();
    }
}

/// Has the thread make a call that fails or succeeds, and go on as if it had been interrupted. Returns what the call gave.
fn make(thread: Pid, number: c_long, arguments: [u64; 3]) -> i64 {
    let before = put(thread, number, arguments);
    ptrace::step(thread, None).unwrap();
    let stepped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    assert_eq!(stepped, WaitStatus::Stopped(thread, Signal::SIGTRAP));
    let result = ptrace::getregs(thread).unwrap().rax.cast_signed();
    let interrupted = libc::user_regs_struct {
        rax: (-i64::from(libc::EINTR)).cast_unsigned(),
        orig_rax: u64::MAX,
        ..before
    };
    ptrace::setregs(thread, interrupted).unwrap();
    ptrace::detach(thread, None).unwrap();
    result
}

#[test]
fn what_is_listed_is_made_or_answered() {
    let mut host = Host::new();
    let mut running = start(&mut host);
    let vmm = running.vmm();
    for name in [MAIN, "vcpu0", "virtio-blk", "virtio-fs"] {
        assert_eq!(
            make(thread(vmm, name), libc::SYS_sched_yield, [0; 3]),
            0,
            "{name}"
        );
    }
    let clone3 = make(thread(vmm, MAIN), libc::SYS_clone3, [0; 3]);
    assert_eq!(clone3, -i64::from(Errno::ENOSYS as i32));
    running.send("\n");
    assert_eq!(running.wait().success(), "ready\ndone\n");
}

/// Has the thread make a call that is not on its list: the container ends, with the reason.
#[track_caller]
fn assert_kills(name: &str, number: c_long, arguments: [u64; 3]) {
    let mut host = Host::new();
    let running = start(&mut host);
    let vmm = running.vmm();
    let thread = thread(vmm, name);
    put(thread, number, arguments);
    ptrace::detach(thread, None).unwrap();
    let stderr = running.wait().with_code(1).stderr();
    assert!(stderr.contains(KILLED), "{name}: {stderr}");
}

#[test]
fn the_main_thread_executes_nothing() {
    assert_kills(MAIN, libc::SYS_execve, [0; 3]);
}

#[test]
fn the_main_thread_makes_no_process() {
    assert_kills(MAIN, libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0]);
}

#[test]
fn a_processor_opens_nothing() {
    let flags = libc::O_RDWR as u64;
    assert_kills("vcpu0", libc::SYS_openat, [libc::AT_FDCWD as u64, 0, flags]);
}

#[test]
fn a_disk_has_nothing_to_do_with_memory_that_is_executed() {
    let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    assert_kills("virtio-blk", libc::SYS_mprotect, [0, 0, code]);
}

#[test]
fn the_file_system_makes_no_socket() {
    let internet = libc::AF_INET as u64;
    assert_kills(
        "virtio-fs",
        libc::SYS_socket,
        [internet, libc::SOCK_STREAM as u64, 0],
    );
}

#[test]
fn nothing_runs_where_the_kernel_takes_no_filter() {
    let host = Host::new();
    let line = host
        .run(&host.script("echo no"))
        .without_filters()
        .output()
        .refusal();
    for words in [
        "the VMM failed",
        "virtio-fs",
        "Function not implemented",
        "CONFIG_SECCOMP_FILTER",
    ] {
        assert!(line.contains(words), "{words:?} is not in: {line}");
    }
}
