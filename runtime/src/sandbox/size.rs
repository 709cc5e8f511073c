//! How big a microVM is made.

use std::fs;

use bulkhead_vmm::config::VmConfig;

use crate::{
    config::{Config, DEFAULT_MAX_VCPUS},
    oci::{CpuLimits, Spec},
};

const MIB: u64 = 1 << 20;

/// The size of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual processors.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
}

/// How many virtual processors a microVM that starts with `vcpus` can have later: no more where `vm.hwConfig` says how
/// many it has.
pub fn max_vcpus(config: &Config, spec: &Spec, vcpus: u8) -> u8 {
    if spec.vm.as_ref().is_some_and(|vm| vm.hw_config.vcpus.is_some()) {
        return vcpus;
    }
    let most = config.max_vcpus.unwrap_or_else(|| {
        let host = u8::try_from(Host::read().cpus).unwrap_or(u8::MAX);
        host.min(DEFAULT_MAX_VCPUS)
    });
    most.max(vcpus)
}

/// How many processors it takes to use up a quota of processor time; none for one that limits nothing.
pub fn vcpus_of(limits: &CpuLimits) -> Option<u64> {
    let quota = limits.quota.and_then(|quota| u64::try_from(quota).ok());
    let period = limits.period.filter(|&period| period > 0);
    let quota = quota.filter(|&quota| quota > 0)?;
    Some(quota.div_ceil(period.unwrap_or(100_000)))
}

/// What there is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host {
    cpus: u64,
    memory_mib: u64,
}

impl Host {
    fn read() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .and_then(|n| n.parse::<u64>().ok());
        Self {
            cpus,
            memory_mib: kib.map_or(u64::MAX, |kib| kib / 1024),
        }
    }
}

/// A size that this host cannot give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vm.hwConfig.memory: {asked_mib} MiB are more than the {host_mib} MiB that the host has")]
pub struct SizeError {
    asked_mib: u64,
    host_mib: u64,
}

impl Size {
    /// The size of [`Size::of`], if the host has as much memory as `vm.hwConfig` asks for.
    ///
    /// # Errors
    /// It has less.
    pub fn checked(config: &Config, spec: &Spec) -> Result<Self, SizeError> {
        let asked = spec.vm.as_ref().and_then(|vm| vm.hw_config.memory);
        if let Some(asked_mib) = asked.map(|bytes| bytes / MIB) {
            let host_mib = Host::read().memory_mib;
            if asked_mib > host_mib {
                return Err(SizeError { asked_mib, host_mib });
            }
        }
        Ok(Self::of(config, spec))
    }

    /// What `vm.hwConfig` says. Where it says nothing, the configured size, or more where the container's limits are
    /// higher: its memory limit fits beside what the guest itself needs, and its processor quota can be used up. Never
    /// more than the host has, as a limit beyond that limits nothing.
    pub fn of(config: &Config, spec: &Spec) -> Self {
        let mut size = Self::of_limits(config, spec);
        if let Some(vm) = &spec.vm {
            if let Some(vcpus) = vm.hw_config.vcpus {
                size.vcpus = u8::try_from(vcpus).unwrap_or(VmConfig::MAX_VCPUS);
            }
            if let Some(memory) = vm.hw_config.memory {
                size.memory_mib = u32::try_from(memory / MIB).unwrap_or(u32::MAX);
            }
        }
        size
    }

    fn of_limits(config: &Config, spec: &Spec) -> Self {
        // Numbers that are none have been refused with the document.
        let limits = spec.sizing().unwrap_or_default();
        let memory = limits
            .memory
            .limit
            .and_then(|bytes| u64::try_from(bytes).ok())
            .filter(|&bytes| bytes > 0);
        let vcpus = vcpus_of(&limits.cpu);
        let configured = Self {
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
        };
        if memory.is_none() && vcpus.is_none() {
            return configured;
        }
        configured.grown(config, memory, vcpus, Host::read())
    }

    fn grown(self, config: &Config, memory: Option<u64>, vcpus: Option<u64>, host: Host) -> Self {
        let memory_mib = memory.map_or(0, |bytes| {
            bytes
                .div_ceil(MIB)
                .saturating_add(config.memory_overhead_mib.into())
                .min(host.memory_mib)
        });
        let vcpus = vcpus.map_or(0, |vcpus| vcpus.min(host.cpus).min(VmConfig::MAX_VCPUS.into()));
        Self {
            vcpus: self.vcpus.max(u8::try_from(vcpus).unwrap_or(VmConfig::MAX_VCPUS)),
            memory_mib: self.memory_mib.max(u32::try_from(memory_mib).unwrap_or(u32::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host {
        cpus: 8,
        memory_mib: 16 * 1024,
    };

    fn grown(memory: Option<u64>, quota: Option<(i64, Option<u64>)>) -> (u8, u32) {
        let config = Config::default();
        let configured = Size {
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
        };
        let vcpus = quota.and_then(|(quota, period)| {
            vcpus_of(&CpuLimits {
                quota: Some(quota),
                period,
                ..CpuLimits::default()
            })
        });
        let size = configured.grown(&config, memory, vcpus, HOST);
        (size.vcpus, size.memory_mib)
    }

    #[test]
    fn limits_make_it_bigger_and_never_smaller() {
        assert_eq!(grown(None, None), (1, 256));
        assert_eq!(grown(Some(16 * MIB), None), (1, 256));
        assert_eq!(grown(Some(512 * MIB), None), (1, 576));
        assert_eq!(grown(Some(512 * MIB + 1), None), (1, 577));
        assert_eq!(grown(None, Some((50_000, None))), (1, 256));
        assert_eq!(grown(None, Some((150_000, Some(100_000)))), (2, 256));
        assert_eq!(grown(None, Some((3, Some(1)))), (3, 256));
    }

    #[test]
    fn the_host_is_the_limit() {
        assert_eq!(grown(Some(u64::MAX), Some((i64::MAX, Some(0)))), (8, 16 * 1024));
    }

    #[test]
    fn limits_that_say_unlimited_ask_for_nothing() {
        let document =
            serde_json::json!({"linux": {"resources": {"memory": {"limit": -1}, "cpu": {"quota": -1}}}});
        let spec = Spec::view(&document).expect("valid");
        assert_eq!(
            Size::of(&Config::default(), &spec),
            Size {
                vcpus: 1,
                memory_mib: 256
            }
        );
    }
}
