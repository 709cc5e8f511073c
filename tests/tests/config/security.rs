//! seccomp, paths that are hidden or fixed, the execution domain.

use bulkhead_tests::harness::Host;
use serde_json::{Value, json};

use super::checks::{check, refused};

/// A filter that lets everything pass but what these rules say.
fn filter(rules: &Value) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": rules,
    })
}

#[test]
fn rules_compare_arguments_and_return_errors() {
    check(
        |config| {
            config["process"]["noNewPrivileges"] = json!(false);
            config["linux"]["seccomp"] = filter(&json!([
                {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["sync"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV,
                 "args": [{"index": 1, "value": libc::SIGUSR1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
                 "args": [{"index": 0, "value": 0o700, "valueTwo": 0o100, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"},
                {"names": ["setpriority"], "action": "SCMP_ACT_TRAP"},
                {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_TRACE"},
                {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_LOG"},
            ]));
            config["linux"]["personality"] = json!({"domain": "LINUX32"});
        },
        &[
            (
                "SCMP_ACT_ERRNO",
                "mkdir /tmp/x",
                "mkdir: can't create directory '/tmp/x': Operation not permitted",
            ),
            (
                "SCMP_CMP_EQ",
                "busybox kill -USR1 1; busybox kill -0 1 && echo other",
                "kill: can't kill pid 1: Invalid cross-device link\nother",
            ),
            (
                "SCMP_ACT_KILL_PROCESS",
                "hostname x; echo $?",
                "Bad system call\n159",
            ),
            (
                "SCMP_ACT_TRAP",
                "busybox renice 1 1; echo $?",
                "Bad system call\n159",
            ),
            (
                "SCMP_ACT_TRACE",
                "ln -s a /tmp/l",
                "ln: /tmp/l: Function not implemented",
            ),
            (
                "SCMP_ACT_LOG",
                "touch /tmp/f && chmod 600 /tmp/f && stat -c %a /tmp/f",
                "600",
            ),
            (
                "linux.seccomp",
                "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status | tr -d '\\t\\n'",
                "NoNewPrivs:0Seccomp:2",
            ),
            ("linux.personality", "uname -m", "i686"),
        ],
    );
}

#[test]
fn what_no_rule_allows_gets_the_default() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["mkdir", "/tmp/x"]);
        let allowed: Vec<&str> = "read write open openat close stat fstat lstat newfstatat mmap mprotect munmap brk \
            rt_sigaction rt_sigprocmask ioctl access execve exit exit_group arch_prctl set_tid_address set_robust_list \
            rseq prlimit64 getrandom getuid geteuid getgid getegid setuid setgid umask prctl readlink readlinkat futex \
            uname getcwd chdir dup2 fcntl poll seccomp setresuid setresgid setgroups capset capget sendto"
            .split_whitespace()
            .collect();
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": libc::EXDEV,
            "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}],
        });
    });
    let output = host.run(&bundle).output().with_code(1);
    assert_eq!(
        output.stderr(),
        "mkdir: can't create directory '/tmp/x': Invalid cross-device link\n",
    );
}

#[test]
fn what_seccomp_does_not_know_is_refused() {
    for (change, words) in [
        (
            json!({"defaultAction": "SCMP_ACT_FUTURE"}),
            ["SCMP_ACT_FUTURE", ""],
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FUTURE"]}),
            ["FUTURE", ""],
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["FUTURE"]}),
            ["FUTURE", ""],
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
                "names": ["bpf"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}],
            }]}),
            ["linux.seccomp.syscalls[0].args", "6"],
        ),
    ] {
        refused(|config| config["linux"]["seccomp"] = change, &words);
    }
    refused(
        |config| config["linux"]["personality"] = json!({"domain": "PDP11"}),
        &["PDP11"],
    );
}
