//! How a VMM ended, in words.

use std::{fmt, path::PathBuf, rc::Rc};

use bulkhead_vmm::{
    probe::{Probe, probe},
    report::{Outcome, Report, Stage},
};

/// How a VMM ended.
#[derive(Debug)]
pub struct VmmEnd {
    report: Option<Report>,
    signal: Option<i32>,
    boot_files: Rc<BootFiles>,
    /// Why the host's KVM cannot run any guest, if that is so and may be why the VMM failed.
    kvm: Option<String>,
}

/// What the guest booted.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM file system, if there is one.
    pub initramfs: Option<PathBuf>,
}

impl VmmEnd {
    /// From the VMM's report, if it wrote one, and the signal that killed it, if one did.
    pub fn new(report: Option<Report>, signal: Option<i32>, boot_files: Rc<BootFiles>) -> Self {
        // A host that cannot run guests is told by a probe, for which no start that succeeds should pay.
        let is_suspect = report.as_ref().is_some_and(|report| match &report.outcome {
            Outcome::Failed { stage, .. } => matches!(stage, Stage::Kvm | Stage::Vcpus | Stage::Run),
            Outcome::TripleFault => true,
            _ => false,
        });
        let kvm = match is_suspect.then(probe) {
            Some(Probe::CannotRunStockGuests { detail }) => Some(detail),
            _ => None,
        };
        Self {
            report,
            signal,
            boot_files,
            kvm,
        }
    }

    /// The last lines of the guest's console, oldest first.
    pub fn console(&self) -> &[String] {
        self.report
            .as_ref()
            .map_or(&[], |report| report.console.as_slice())
    }

    fn failure(&self, f: &mut fmt::Formatter<'_>, stage: Stage, message: &str) -> fmt::Result {
        let doing = match stage {
            Stage::Configuration => "checking its configuration",
            Stage::Jail => "entering its jail",
            Stage::Kvm => "asking /dev/kvm for a virtual machine",
            Stage::Memory => "making the guest's memory",
            Stage::Kernel => {
                let BootFiles { kernel, initramfs } = &*self.boot_files;
                write!(f, "the VMM cannot load kernel {}", kernel.display())?;
                if let Some(initramfs) = initramfs {
                    write!(f, " with initramfs {}", initramfs.display())?;
                }
                return write!(f, ": {message}");
            }
            Stage::Devices => "making the devices",
            Stage::Vcpus => "making the virtual processors",
            Stage::Run => "running the guest",
        };
        write!(f, "the VMM failed while {doing}: {message}")
    }
}

impl std::error::Error for VmmEnd {}

impl fmt::Display for VmmEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(detail) = &self.kvm {
            return write!(
                f,
                "this host's KVM (/dev/kvm) cannot run a stock guest kernel: {detail}; `bulkhead check` says more"
            );
        }
        match (self.report.as_ref().map(|report| &report.outcome), self.signal) {
            (Some(Outcome::PowerOff), _) => write!(f, "the guest switched itself off"),
            (Some(Outcome::Panic { message }), _) => write!(f, "the guest's kernel panicked: {message}"),
            (Some(Outcome::TripleFault), _) => write!(f, "the guest stopped with a triple fault"),
            (Some(Outcome::Stopped), _) => write!(f, "the virtual machine was stopped by request"),
            (Some(Outcome::Failed { stage, message }), _) => self.failure(f, *stage, message),
            (None, Some(libc::SIGSYS)) => write!(
                f,
                "the VMM was killed by signal {} (SIGSYS): it made a system call that is not on its thread's list, \
                 by a defect or an attack; the host's kernel log names thread and call (audit, type=1326)",
                libc::SIGSYS
            ),
            (None, Some(signal)) => write!(f, "the VMM was killed by signal {signal}"),
            (None, None) => write!(f, "the VMM ended without a word"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outcome: Option<Outcome>, signal: Option<i32>) -> String {
        let report = outcome.map(|outcome| Report {
            outcome,
            console: Vec::new(),
        });
        let boot_files = Rc::new(BootFiles {
            kernel: "/k".into(),
            initramfs: Some("/i".into()),
        });
        VmmEnd {
            report,
            signal,
            boot_files,
            kvm: None,
        }
        .to_string()
    }

    #[test]
    fn an_end_says_what_happened_to_whom() {
        let panic = Outcome::Panic {
            message: "VFS: Unable to mount root fs".to_owned(),
        };
        assert_eq!(
            text(Some(panic), None),
            "the guest's kernel panicked: VFS: Unable to mount root fs"
        );
        assert_eq!(text(None, Some(9)), "the VMM was killed by signal 9");
        assert!(
            text(None, Some(31))
                .starts_with("the VMM was killed by signal 31 (SIGSYS): it made a system call")
        );
        let message = "not an ELF file".to_owned();
        let kernel = Outcome::Failed {
            stage: Stage::Kernel,
            message,
        };
        assert_eq!(
            text(Some(kernel), None),
            "the VMM cannot load kernel /k with initramfs /i: not an ELF file"
        );
    }
}
