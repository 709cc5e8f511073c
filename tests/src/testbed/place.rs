//! Where integration tests run.

use std::fs;

/// Where integration tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Right here: the host's KVM runs stock guests.
    Host,
    /// In the emulated host.
    L1,
}

impl Place {
    /// Decides for this machine.
    #[must_use]
    pub fn decide() -> Self {
        if hardware_kvm() { Self::Host } else { Self::L1 }
    }
}

fn hardware_kvm() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualises = flags
        .split_whitespace()
        .any(|flag| flag == "svm" || flag == "vmx");
    virtualises
        && fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}
