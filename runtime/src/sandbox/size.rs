//! How big a microVM is made.

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

/// How many processors it takes to use up a quota of processor time; none for one that limits nothing.
pub fn vcpus_of(limits: &CpuLimits) -> Option<u64> {
    let quota = limits.quota.and_then(|quota| u64::try_from(quota).ok());
    let period = limits.period.filter(|&period| period > 0);
    let quota = quota.filter(|&quota| quota > 0)?;
    Some(quota.div_ceil(period.unwrap_or(100_000)))
}

/// How much memory in MiB a microVM needs whose containers can use `bytes`.
pub fn memory_mib_for(config: &Config, bytes: u64) -> u32 {
    let mib = bytes
        .div_ceil(MIB)
        .saturating_add(config.memory_overhead_mib.into());
    u32::try_from(mib).unwrap_or(u32::MAX)
}

/// How much memory in MiB a microVM can grow to.
pub fn most_memory_mib(config: &Config) -> u32 {
    most_memory_on(config, Host::read())
}

fn most_memory_on(config: &Config, host: Host) -> u32 {
    let host = u32::try_from(host.memory_mib).unwrap_or(u32::MAX);
    config.max_memory_mib.unwrap_or(host)
}

/// What there is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host {
    cpus: u64,
    memory_mib: u64,
}

impl Host {
    fn read() -> Self {
        let memory = rustix::system::sysinfo();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_mib: u64::from(memory.mem_unit).saturating_mul(memory.totalram) / MIB,
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

    /// The most that a microVM of this size can become: nothing of what `vm.hwConfig` says how much it has.
    pub fn most(self, config: &Config, spec: &Spec) -> Self {
        self.most_on(config, spec, Host::read())
    }

    fn most_on(self, config: &Config, spec: &Spec, host: Host) -> Self {
        let fixed = spec.vm.as_ref().map(|vm| &vm.hw_config);
        let vcpus = config.max_vcpus.unwrap_or_else(|| {
            let host = u8::try_from(host.cpus).unwrap_or(u8::MAX);
            host.min(DEFAULT_MAX_VCPUS)
        });
        let memory_mib = most_memory_on(config, host);
        let mut most = self;
        if fixed.is_none_or(|fixed| fixed.vcpus.is_none()) {
            most.vcpus = most.vcpus.max(vcpus);
        }
        if fixed.is_none_or(|fixed| fixed.memory.is_none()) {
            most.memory_mib = most.memory_mib.max(memory_mib);
        }
        most
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
            u64::from(memory_mib_for(config, bytes)).min(host.memory_mib)
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
    fn it_can_become_what_the_configuration_says_or_the_host_has() {
        let most = |config: &Config, vm: serde_json::Value| {
            let spec = Spec::view(&serde_json::json!({"vm": vm})).expect("valid");
            let size = Size {
                vcpus: 2,
                memory_mib: 512,
            };
            let most = size.most_on(config, &spec, HOST);
            (most.vcpus, most.memory_mib)
        };
        let none = serde_json::Value::Null;
        assert_eq!(most(&Config::default(), none.clone()), (4, 16 * 1024));
        let config = |max_vcpus, max_memory_mib| Config {
            max_vcpus: Some(max_vcpus),
            max_memory_mib: Some(max_memory_mib),
            ..Config::default()
        };
        assert_eq!(most(&config(3, 768), none.clone()), (3, 768));
        assert_eq!(most(&config(1, 256), none), (2, 512));
        let hardware = serde_json::json!({"hwConfig": {"memory": 512 << 20}});
        assert_eq!(most(&config(3, 768), hardware), (3, 512));
        let hardware = serde_json::json!({"hwConfig": {"vcpus": 2}});
        assert_eq!(most(&config(3, 768), hardware), (2, 768));
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
