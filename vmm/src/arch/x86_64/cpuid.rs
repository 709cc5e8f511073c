//! What the guest's processors say of themselves: what KVM supports on this host, without what a microVM does not have,
//! with one package of single-threaded cores as topology. The same for Intel and AMD; where they differ, both get theirs.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use vm_memory::{Address, GuestAddress};

use crate::kvm::KvmError;
use crate::memory::MemoryError;

/// Leaf 1, ECX.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: several processors in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX.
const LEGACY_MULTICORE: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
const AMD_PERFORMANCE_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// The processor identification from which each virtual processor's is made.
pub struct Processors {
    entries: Vec<kvm_cpuid_entry2>,
    count: u8,
}

impl Processors {
    /// Asks KVM what it supports and makes of it what `count` virtual processors say.
    pub fn new(kvm: &Kvm, count: u8) -> Result<Self, KvmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self::filtered(
            supported.as_slice(),
            count,
            kvm.check_extension(Cap::TscDeadlineTimer),
        ))
    }

    pub(super) fn filtered(supported: &[kvm_cpuid_entry2], count: u8, tsc_deadline: bool) -> Self {
        let mut entries: Vec<_> = supported
            .iter()
            .filter(|entry| !matches!(entry.function, 0xb | 0x1f))
            .copied()
            .collect();
        for entry in &mut entries {
            restrict(entry, tsc_deadline);
            share(entry, count);
        }
        if supported
            .iter()
            .any(|entry| entry.function == 0 && entry.eax >= 0xb)
        {
            entries.extend(extended_topology(count));
        }
        Processors { entries, count }
    }

    /// How many bits an address of the guest's processors has.
    fn address_bits(&self) -> u32 {
        const WITHOUT_THE_LEAF: u32 = 36;
        let address_sizes = self.entries.iter().find(|entry| entry.function == 0x8000_0008);
        address_sizes.map_or(WITHOUT_THE_LEAF, |entry| entry.eax & 0xff)
    }

    /// The first address that the guest's processors cannot reach.
    pub fn reach(&self) -> u64 {
        1 << self.address_bits().min(63)
    }

    /// Checks that the guest's processors can address all of its memory.
    pub fn check_reach(&self, ram: &[(GuestAddress, u64)]) -> Result<(), MemoryError> {
        let end = ram
            .iter()
            .map(|(start, size)| start.raw_value().saturating_add(*size))
            .max();
        if end.unwrap_or(0) <= self.reach() {
            return Ok(());
        }
        let mib = ram.iter().map(|(_, size)| size >> 20).sum();
        let bits = self.address_bits();
        Err(MemoryError::BeyondReach { mib, bits })
    }

    /// What the processor with this index, which is its APIC ID too, says of itself.
    pub fn identify(&self, index: u8) -> Result<CpuId, KvmError> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            number(entry, index);
        }
        CpuId::from_entries(&entries).map_err(|_| KvmError::TooManyCpuidEntries(entries.len()))
    }

    /// How many there are.
    pub fn count(&self) -> u8 {
        self.count
    }
}

/// Takes out what a microVM does not have: virtualisation of its own, performance counters, MONITOR.
fn restrict(entry: &mut kvm_cpuid_entry2, tsc_deadline: bool) {
    match entry.function {
        0x1 => {
            entry.ecx &= !(MONITOR | VMX | PERFORMANCE_CAPABILITIES);
            entry.ecx |= HYPERVISOR;
            if tsc_deadline {
                // KVM emulates it on every host but lists it only since Linux 6.7.
                entry.ecx |= TSC_DEADLINE;
            }
        }
        0x8000_0001 => entry.ecx &= !(SVM | AMD_PERFORMANCE_COUNTERS),
        0xa | 0x8000_000a | 0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        _ => {}
    }
}

/// Says how many processors there are and which caches they share: the last level, and no other.
fn share(entry: &mut kvm_cpuid_entry2, count: u8) {
    let others = u32::from(count) - 1;
    let last_id = (1 << id_bits(count)) - 1;
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & !(0xff << 16) | (last_id + 1) << 16;
            entry.edx = if others > 0 {
                entry.edx | HTT
            } else {
                entry.edx & !HTT
            };
        }
        // Intel's and AMD's caches: bits 25:14 how many more processors share one, on Intel 31:26 the last core's ID.
        0x4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { last_id } else { 0 };
            entry.eax = entry.eax & !(0xfff << 14) | sharing << 14;
            if entry.function == 0x4 {
                entry.eax = entry.eax & !(0x3f << 26) | last_id.min(0x3f) << 26;
            }
        }
        0x8000_0001 if is_multicore_flag_amd(entry) && others > 0 => entry.ecx |= LEGACY_MULTICORE,
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | u32::from(id_bits(count)) << 12 | others,
        _ => {}
    }
}

/// Intel's processors do not have the flag; there, bit 1 of that register is reserved and KVM leaves it clear along with
/// TOPOEXT (bit 22), which every AMD processor with KVM support has.
fn is_multicore_flag_amd(entry: &kvm_cpuid_entry2) -> bool {
    entry.ecx & (1 << 22 | LEGACY_MULTICORE) != 0
}

/// Leaf 0xb: a thread level of one and a core level of all.
fn extended_topology(count: u8) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | kind,
        ..Default::default()
    };
    [
        level(0, 0, 1, THREADS),
        level(1, id_bits(count).into(), count.into(), CORES),
        level(2, 0, 0, 0),
    ]
}

/// Writes a processor's own number wherever it says it.
fn number(entry: &mut kvm_cpuid_entry2, index: u8) {
    let index = u32::from(index);
    match entry.function {
        0x1 => entry.ebx = entry.ebx & !(0xff << 24) | index << 24,
        0xb => entry.edx = index,
        // AMD: extended APIC ID; core ID with one thread each; node 0 of one.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
        _ => {}
    }
}

/// How many bits of the APIC ID number the cores.
fn id_bits(count: u8) -> u8 {
    u8::try_from(count.next_power_of_two().trailing_zeros()).expect("a u8 has 8 bits")
}
