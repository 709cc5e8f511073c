//! `bulkhead check`

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::ExitCode,
};

use bulkhead_vmm::probe::{Probe, probe};
use clap::Args;

use super::{Global, Status, output::print};
use crate::{
    config::Config,
    sandbox::{BootFileError, cgroup_mount_point, open_initramfs, open_kernel},
};

/// Say whether this host can run containers, and what to do where it can't
#[derive(Debug, Args)]
pub struct Check {}

/// What came of looking at one thing.
enum Finding {
    /// As it should be.
    Good(String),
    /// Not as it should be, and nothing that is needed.
    Note(String),
    /// Containers cannot run, and what to do.
    Bad(String),
}

use Finding::{Bad, Good, Note};

impl Check {
    pub fn execute(self, global: &Global) -> Status {
        let config = Config::load(global.config.as_deref())?;
        let findings = [
            ("processor", processor()),
            ("KVM", kvm()),
            ("kernel", boot_file(&config.kernel, open_kernel(&config.kernel))),
            (
                "initramfs",
                boot_file(&config.initramfs, open_initramfs(&config.initramfs)),
            ),
            ("VMM", vmm(&config.vmm)),
            ("vhost", vhost()),
            ("cgroup v2", cgroup()),
        ];
        let mut text = String::new();
        for (subject, finding) in &findings {
            let (verdict, found) = match finding {
                Good(found) => ("OK", found),
                Note(found) => ("NOTE", found),
                Bad(found) => ("FAIL", found),
            };
            text.push_str(&format!("{verdict:<5}{subject}: {found}\n"));
        }
        print(&text)?;
        let is_bad = findings.iter().any(|(_, finding)| matches!(finding, Bad(_)));
        Ok(if is_bad {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn processor() -> Finding {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .unwrap_or_default();
    let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
    if has("vmx") {
        Good("virtualisation by Intel VT-x".to_owned())
    } else if has("svm") {
        Good("virtualisation by AMD-V".to_owned())
    } else {
        Note("no virtualisation: switch it on in the firmware, or in a virtual machine ask for nested virtualisation".to_owned())
    }
}

fn kvm() -> Finding {
    match probe() {
        Probe::Usable { .. } => Good("runs guests".to_owned()),
        Probe::NoKvm { error, hint } => Bad(format!("/dev/kvm: {error}; {hint}")),
        Probe::CannotRunStockGuests { detail } => Bad(format!(
            "/dev/kvm answers, but cannot run a stock guest kernel ({detail}); use a host with hardware virtualisation"
        )),
    }
}

fn boot_file(path: &Path, opened: Result<File, BootFileError>) -> Finding {
    match opened {
        Ok(_) => Good(path.display().to_string()),
        Err(error) => Bad(error.to_string()),
    }
}

fn vmm(path: &Path) -> Finding {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
            Good(path.display().to_string())
        }
        Ok(_) => Bad(format!("{}: not a program", path.display())),
        Err(e) => Bad(format!(
            "{}: {e}; install it, or say in the configuration file where it is",
            path.display()
        )),
    }
}

fn vhost() -> Finding {
    if Path::new("/dev/vhost-net").exists() {
        Good("vhost-net is there".to_owned())
    } else {
        Note("no vhost-net; nothing needs it yet".to_owned())
    }
}

fn cgroup() -> Finding {
    match cgroup_mount_point() {
        Ok(path) => Good(path.display().to_string()),
        Err(error) => Bad(error.to_string()),
    }
}
