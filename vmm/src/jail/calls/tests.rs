use super::*;

#[path = "../../../seccomp/compiler.rs"]
mod compiler;

const LISTS: &str = include_str!("../../../seccomp/lists.toml");

/// Lists with one kind of thread, `t`, which has these calls and may end.
fn with_calls(calls: &str) -> String {
    format!(
        "[parts.end]\nwhy = \"\"\n[parts.end.calls]\nexit_group = \"\"\n\
         [threads.t]\nwhy = \"\"\nincludes = [\"end\"]\n[threads.t.calls]\n{calls}\n"
    )
}

fn filter(lists: &str, name: &str) -> Vec<sock_filter> {
    compiler::compile(lists).unwrap()[name]
        .iter()
        .map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k })
        .collect()
}

/// What becomes of a system call.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is made.
    Made,
    /// It fails with this error.
    Fails(i32),
    /// This signal kills the process.
    Killed(i32),
}

/// What becomes of `call` in a process that is confined by `filter`.
fn fate(filter: &[sock_filter], call: impl FnOnce() -> libc::c_long) -> Fate {
    // SAFETY: the child makes system calls only, and ends; the parent waits for it.
    let status = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if install(filter).is_err() {
                libc::_exit(255);
            }
            libc::_exit(if call() < 0 { *libc::__errno_location() } else { 0 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        status
    };
    match (libc::WIFSIGNALED(status), libc::WEXITSTATUS(status)) {
        (true, _) => Fate::Killed(libc::WTERMSIG(status)),
        (false, 0) => Fate::Made,
        (false, errno) => Fate::Fails(errno),
    }
}

fn fcntl(command: i32) -> impl FnOnce() -> libc::c_long {
    // SAFETY: no pointers.
    move || unsafe { libc::syscall(libc::SYS_fcntl, 0, command, 0) }
}

#[test]
fn what_is_listed_is_made_and_all_else_kills() {
    let filter = filter(&with_calls("getppid = \"\""), "t");
    // SAFETY: no pointers.
    let listed = || unsafe { libc::syscall(libc::SYS_getppid) };
    assert_eq!(fate(&filter, listed), Fate::Made);
    // SAFETY: no pointers.
    let other = || unsafe { libc::syscall(libc::SYS_getpgrp) };
    assert_eq!(fate(&filter, other), Fate::Killed(libc::SIGSYS));
}

#[test]
fn arguments_are_compared() {
    let calls = "fcntl = { why = \"\", argument = 1, is = [\"F_GETFL\", \"F_SETFL\"] }\n\
                 mmap = { why = \"\", argument = 2, lacks = \"PROT_EXEC\" }";
    let filter = filter(&with_calls(calls), "t");
    for (command, expected) in [
        (libc::F_GETFL, Fate::Made),
        (libc::F_SETFL, Fate::Made),
        (libc::F_GETFD, Fate::Killed(libc::SIGSYS)),
    ] {
        assert_eq!(fate(&filter, fcntl(command)), expected, "{command}");
    }
    let mmap = |protection: i32| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which nobody looks at.
        move || unsafe { libc::syscall(libc::SYS_mmap, 0, 4096, protection, flags, -1, 0) }
    };
    let (data, code) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::PROT_READ | libc::PROT_EXEC,
    );
    assert_eq!(fate(&filter, mmap(data)), Fate::Made);
    assert_eq!(fate(&filter, mmap(code)), Fate::Killed(libc::SIGSYS));
}

#[test]
fn an_answer_takes_the_place_of_a_call() {
    let filter = filter(&with_calls("getppid = { why = \"\", answer = \"ENOSYS\" }"), "t");
    // SAFETY: no pointers.
    let call = || unsafe { libc::syscall(libc::SYS_getppid) };
    assert_eq!(fate(&filter, call), Fate::Fails(libc::ENOSYS));
}

/// A program that has system calls of another kind is none of ours.
#[test]
fn calls_of_32_bits_kill() {
    let filter = filter(&with_calls("getppid = \"\"\nrestart_syscall = \"\""), "t");
    // SAFETY: no pointers.
    let x32 = || unsafe { libc::syscall(0x4000_0000 | libc::SYS_getppid) };
    assert_eq!(fate(&filter, x32), Fate::Killed(libc::SIGSYS));
}

#[test]
fn a_thread_may_do_what_those_may_that_it_starts() {
    let calls = "fcntl = { why = \"\", argument = 1, is = [\"F_GETFL\"] }\ngetppid = { why = \"\", answer = \"ENOSYS\" }";
    let lists = with_calls(calls)
        + "[threads.u]\nwhy = \"\"\nincludes = [\"t\", \"end\"]\n[threads.u.calls]\n\
           fcntl = { why = \"\", argument = 1, is = [\"F_SETFL\"] }\ngetppid = \"\"\n";
    let filter = filter(&lists, "u");
    for command in [libc::F_GETFL, libc::F_SETFL] {
        assert_eq!(fate(&filter, fcntl(command)), Fate::Made, "{command}");
    }
    assert_eq!(fate(&filter, fcntl(libc::F_GETFD)), Fate::Killed(libc::SIGSYS));
    // SAFETY: no pointers.
    let call = || unsafe { libc::syscall(libc::SYS_getppid) };
    assert_eq!(
        fate(&filter, call),
        Fate::Made,
        "what one allows, another does not take away"
    );
}

#[test]
fn mistakes_are_told_with_their_place() {
    let rule = |rule: &str| with_calls(&format!("fcntl = {{ why = \"\", {rule} }}"));
    for (lists, expected) in [
        (with_calls("fcnlt = \"\""), "t: fcnlt: is no system call"),
        (
            rule("argument = 1, is = [\"F_NONE\"]"),
            "t: fcntl: F_NONE is not among the names",
        ),
        (
            rule("argument = 1"),
            "t: fcntl: `argument`, from 0 to 5, goes with",
        ),
        (
            rule("argument = 6, lacks = \"PROT_EXEC\""),
            "t: fcntl: `argument`, from 0 to 5",
        ),
        (
            rule("argument = 1, is = [\"F_GETFL\"], lacks = \"PROT_EXEC\""),
            "either `is` or `lacks`",
        ),
        (rule("lacks = \"PROT_EXEC\""), "t: fcntl: `argument`"),
        (rule("arguments = 1"), "a reason, or a table with `why`"),
        (
            with_calls("").replace("\"end\"", "\"u\""),
            "t: includes \"u\", which is no other list",
        ),
        (with_calls("").replace("\"end\"", "\"t\""), "t: includes \"t\""),
        (with_calls("read = 1"), "a reason, or a table with `why`"),
        (
            with_calls("read = { why = \"\", answer = \"ENOSYS\" }").replace(
                "[parts.end.calls]\n",
                "[parts.end.calls]\nread = { why = \"\", answer = \"ENOENT\" }\n",
            ),
            "t: read: two lists differ",
        ),
        (
            with_calls("read = { why = \"\", answer = \"ENOSYS\" }").replace(
                "[parts.end.calls]\n",
                "[parts.end.calls]\nread = { why = \"\", argument = 0, is = [\"ENOENT\"] }\n",
            ),
            "t: read: it is answered whatever",
        ),
        ("threads = 1".to_owned(), "invalid type"),
    ] {
        let text = match compiler::compile(&lists) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    }
}

/// The filters that are built in are the lists', and a thread that is confined twice has what both have.
#[test]
fn the_lists_hold() {
    for (name, thread, built) in [
        ("main", Thread::Main, &filters::MAIN[..]),
        ("vcpu", Thread::Vcpu, &filters::VCPU),
        ("virtio-blk", Thread::Block, &filters::VIRTIO_BLK),
        ("virtio-fs", Thread::Filesystem, &filters::VIRTIO_FS),
    ] {
        let same =
            |(a, b): (&sock_filter, &sock_filter)| (a.code, a.jt, a.jf, a.k) == (b.code, b.jt, b.jf, b.k);
        let listed = filter(LISTS, name);
        assert!(
            listed.len() == built.len() && listed.iter().zip(built).all(same),
            "{name}"
        );
        let program = c"/".as_ptr();
        let none = ptr::null::<*const libc::c_char>();
        // SAFETY: a valid path, and no arguments.
        let execute = || unsafe { libc::syscall(libc::SYS_execve, program, none, none) };
        assert_eq!(fate(built, execute), Fate::Killed(libc::SIGSYS), "{name}");
        let confined = || thread.confine().map_or(-1, |()| 0);
        let expected = match thread {
            Thread::Main => Fate::Made,
            _ => Fate::Killed(libc::SIGSYS),
        };
        assert_eq!(fate(built, confined), expected, "{name}");
    }
}
