//! Compiles linux.seccomp to the filter that the kernel runs. The agent compiles, the container's process only
//! installs the result.

use std::{io::Read, io::Seek, mem};

use libc::sock_filter;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall, error::SeccompError,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::Errno,
};

use super::spec::SpecError;
use crate::syscalls;

/// A filter ready to be installed.
#[derive(Debug, Clone)]
pub struct SeccompFilter {
    program: Vec<sock_filter>,
    flags: u64,
}

impl SeccompFilter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// Names the field: `SCMP_ACT_NOTIFY`, an architecture that is none, an argument that does not exist.
    pub fn compile(seccomp: &LinuxSeccomp) -> Result<Self, SpecError> {
        let default = action(
            seccomp.default_action(),
            seccomp.default_errno_ret(),
            "linux.seccomp.defaultAction",
        )?;
        let mut filter = ScmpFilterContext::new(default)
            .map_err(|error| library("linux.seccomp.defaultAction", &error))?;
        filter
            .set_ctl_nnp(false)
            .and_then(|filter| filter.set_act_badarch(ScmpAction::KillProcess))
            .map_err(|error| library("linux.seccomp", &error))?;
        for arch in seccomp.architectures().iter().flatten() {
            let field = || format!("linux.seccomp.architectures {arch}");
            filter
                .add_arch(architecture(*arch).ok_or_else(|| SpecError::Unsupported(field()))?)
                .map_err(|error| library(&field(), &error))?;
        }
        for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
            let field = format!("linux.seccomp.syscalls[{index}]");
            let action = action(rule.action(), rule.errno_ret(), &format!("{field}.action"))?;
            if action == default {
                // What happens anyway; the library refuses to be told so.
                continue;
            }
            let groups = argument_groups(rule.args().as_deref().unwrap_or_default(), &field)?;
            for name in rule.names() {
                // Profiles name the system calls of all kernels: what this architecture has not cannot be called.
                let Ok(number) = ScmpSyscall::from_name(name) else {
                    continue;
                };
                for group in &groups {
                    let added = if group.is_empty() {
                        filter.add_rule(action, number)
                    } else {
                        filter.add_rule_conditional(action, number, group)
                    };
                    added.map_err(|error| library(&format!("{field} ({name})"), &error))?;
                }
            }
        }
        Ok(Self {
            program: export(&filter).map_err(|text| SpecError::invalid("linux.seccomp", text))?,
            flags: flags(seccomp.flags().as_deref().unwrap_or_default())?,
        })
    }

    /// Installs it for the calling process.
    ///
    /// # Errors
    /// What seccomp(2) gives.
    pub fn install(&self) -> Result<(), Errno> {
        syscalls::seccomp_set_filter(&self.program, self.flags)
    }
}

fn library(field: &str, error: &SeccompError) -> SpecError {
    SpecError::invalid(field, error.to_string())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<ScmpAction, SpecError> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(
            i32::try_from(errno).map_err(|_| SpecError::invalid(field, format!("{errno} is no errno")))?,
        ),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(
            u16::try_from(errno)
                .map_err(|_| SpecError::invalid(field, format!("{errno} is no tracer's number")))?,
        ),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(SpecError::Unsupported(format!("{field} SCMP_ACT_NOTIFY")));
        }
    })
}

fn architecture(arch: Arch) -> Option<ScmpArch> {
    Some(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        _ => return None,
    })
}

/// The comparisons of a rule. All on different arguments must hold together; if one argument has several, the rule
/// means any of them, which the library wants as one rule each.
fn argument_groups(args: &[LinuxSeccompArg], field: &str) -> Result<Vec<Vec<ScmpArgCompare>>, SpecError> {
    let mut all = Vec::with_capacity(args.len());
    let mut used = [0_u32; 6];
    for arg in args {
        let count = used.get_mut(arg.index()).ok_or_else(|| {
            SpecError::invalid(format!("{field}.args"), format!("no argument {}", arg.index()))
        })?;
        *count += 1;
        let number = u32::try_from(arg.index()).unwrap_or(u32::MAX);
        all.push(ScmpArgCompare::new(number, operator(arg), datum(arg)));
    }
    Ok(if used.iter().any(|count| *count > 1) {
        all.into_iter().map(|comparison| vec![comparison]).collect()
    } else {
        vec![all]
    })
}

fn operator(arg: &LinuxSeccompArg) -> ScmpCompareOp {
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(arg.value()),
    }
}

fn datum(arg: &LinuxSeccompArg) -> u64 {
    match arg.op() {
        // The first value is the mask.
        LinuxSeccompOperator::ScmpCmpMaskedEq => arg.value_two().unwrap_or_default(),
        _ => arg.value(),
    }
}

fn flags(flags: &[LinuxSeccompFilterFlag]) -> Result<u64, SpecError> {
    let mut all = 0;
    for flag in flags {
        all |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // It is about SCMP_ACT_NOTIFY.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(SpecError::Unsupported(format!("linux.seccomp.flags {flag}")));
            }
        };
    }
    Ok(all)
}

fn export(filter: &ScmpFilterContext) -> Result<Vec<sock_filter>, String> {
    const SIZE: usize = size_of::<sock_filter>();
    let file = memfd_create("seccomp", MemfdFlags::CLOEXEC).map_err(|errno| errno.to_string())?;
    filter.export_bpf(&file).map_err(|error| error.to_string())?;
    let mut file = std::fs::File::from(file);
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(bytes
        .chunks_exact(SIZE)
        .map(|chunk| {
            let mut instruction = [0; SIZE];
            instruction.copy_from_slice(chunk);
            // SAFETY: the structure is four integers without padding, for which all bytes are valid.
            unsafe { mem::transmute::<[u8; SIZE], sock_filter>(instruction) }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compile(seccomp: serde_json::Value) -> Result<SeccompFilter, String> {
        let seccomp: LinuxSeccomp = serde_json::from_value(seccomp).unwrap();
        SeccompFilter::compile(&seccomp).map_err(|error| error.to_string())
    }

    /// What a child process with the filter gets from getpriority(2) for a user, whose argument is 2.
    fn getpriority_under(filter: &SeccompFilter) -> i32 {
        // SAFETY: the child makes system calls only, and ends.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if filter.install().is_err() {
                    libc::_exit(255);
                }
                // A call that succeeds leaves the number of an earlier error.
                let failed = libc::syscall(libc::SYS_getpriority, libc::PRIO_USER, 0) == -1;
                libc::_exit(if failed { *libc::__errno_location() } else { 0 });
            }
            let mut status = 0;
            libc::waitpid(pid, &raw mut status, 0);
            libc::WEXITSTATUS(status)
        }
    }

    #[test]
    fn a_rule_gives_its_errno() {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["getpriority", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}],
        }))
        .unwrap();
        assert_eq!(getpriority_under(&filter), 99);
    }

    #[test]
    fn arguments_are_compared() {
        for (value, errno) in [(libc::PRIO_USER, 98), (libc::PRIO_PROCESS, 0)] {
            let filter = compile(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{
                    "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98,
                    "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
                }],
            }))
            .unwrap();
            assert_eq!(getpriority_under(&filter), errno);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (seccomp, text) in [
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_NOTIFY"}]}),
                "linux.seccomp.syscalls[0].action SCMP_ACT_NOTIFY is not supported",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
                    "names": ["bpf"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}],
                }]}),
                "linux.seccomp.syscalls[0].args: no argument 6",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
                "linux.seccomp.flags SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is not supported",
            ),
        ] {
            assert_eq!(compile(seccomp).unwrap_err(), text);
        }
    }
}
