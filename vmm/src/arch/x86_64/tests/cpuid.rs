use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use vm_memory::GuestAddress;

use crate::arch::x86_64::cpuid::Processors;
use crate::memory::MemoryError;

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// What a host with everything would say.
fn host() -> Vec<kvm_cpuid_entry2> {
    const ALL: [u32; 4] = [u32::MAX; 4];
    vec![
        leaf(0x0, 0, [0x1f, 0, 0, 0]),
        leaf(0x1, 0, ALL),
        // A first-level data cache and a third-level cache, each shared by 64.
        leaf(0x4, 0, [63 << 26 | 63 << 14 | 1 << 5 | 1, 0, 0, 0]),
        leaf(0x4, 3, [63 << 26 | 63 << 14 | 3 << 5 | 3, 0, 0, 0]),
        leaf(0x4, 4, [0; 4]),
        leaf(0xa, 0, ALL),
        leaf(0xb, 0, [0, 0, 0, 99]),
        leaf(0x1f, 0, [0, 0, 0, 99]),
        leaf(0x8000_0001, 0, ALL),
        leaf(0x8000_0008, 0, [48, 0, u32::MAX, 0]),
        leaf(0x8000_000a, 0, ALL),
        leaf(0x8000_001e, 0, ALL),
        leaf(0x8000_0022, 0, ALL),
    ]
}

fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
    *cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
        .unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"))
}

#[test]
fn a_guest_has_no_virtualisation_and_no_performance_counters() {
    let cpuid = Processors::filtered(&host(), 1, false).identify(0).unwrap();
    let features = find(&cpuid, 1, 0);
    for (bit, set) in [(3, 0), (5, 0), (15, 0), (31, 1)] {
        assert_eq!(features.ecx >> bit & 1, set, "leaf 1, ECX bit {bit}");
    }
    let extended = find(&cpuid, 0x8000_0001, 0);
    assert_eq!(extended.ecx >> 2 & 1, 0, "SVM");
    for function in [0xa, 0x8000_000a, 0x8000_0022] {
        let leaf = find(&cpuid, function, 0);
        assert_eq!(
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx),
            (0, 0, 0, 0),
            "leaf {function:#x}"
        );
    }
}

#[test]
fn the_deadline_timer_is_there_when_kvm_emulates_it() {
    let mut host = host();
    host[1].ecx = 0;
    let has = |tsc_deadline| {
        find(
            &Processors::filtered(&host, 1, tsc_deadline).identify(0).unwrap(),
            1,
            0,
        )
        .ecx >> 24
            & 1
            == 1
    };
    assert!(has(true) && !has(false));
}

#[test]
fn six_processors_are_six_cores_of_one_package() {
    let processors = Processors::filtered(&host(), 6, true);
    let fifth = processors.identify(5).unwrap();

    let features = find(&fifth, 1, 0);
    assert_eq!(features.ebx >> 24, 5, "APIC ID");
    assert_eq!(features.ebx >> 16 & 0xff, 8, "addressable IDs");
    assert_eq!(features.edx >> 28 & 1, 1, "several processors");

    let threads = find(&fifth, 0xb, 0);
    assert_eq!(
        (threads.eax, threads.ebx, threads.ecx, threads.edx),
        (0, 1, 0x100, 5)
    );
    let cores = find(&fifth, 0xb, 1);
    assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, 0x201, 5));
    assert_eq!(cores.flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    assert_eq!(find(&fifth, 0xb, 2).ebx, 0);
    assert!(
        fifth.as_slice().iter().all(|entry| entry.function != 0x1f),
        "no second topology"
    );

    assert_eq!(
        find(&fifth, 0x4, 0).eax >> 14 & 0xfff,
        0,
        "the first level is a core's own"
    );
    assert_eq!(
        find(&fifth, 0x4, 3).eax >> 14 & 0xfff,
        7,
        "the third level is everybody's"
    );
    assert_eq!(find(&fifth, 0x4, 3).eax >> 26, 7, "IDs of cores");
    assert_eq!(find(&fifth, 0x4, 4).eax, 0, "the end of the list stays");

    let sizes = find(&fifth, 0x8000_0008, 0);
    assert_eq!((sizes.ecx & 0xff, sizes.ecx >> 12 & 0xf), (5, 3));
    let amd = find(&fifth, 0x8000_001e, 0);
    assert_eq!((amd.eax, amd.ebx, amd.ecx), (5, 5, 0));
    assert_eq!(
        find(&fifth, 0x8000_0001, 0).ecx >> 1 & 1,
        1,
        "AMD's own flag for several processors"
    );
}

#[test]
fn one_processor_is_alone() {
    let only = Processors::filtered(&host(), 1, true).identify(0).unwrap();
    let features = find(&only, 1, 0);
    assert_eq!((features.ebx >> 16 & 0xff, features.edx >> 28 & 1), (1, 0));
    assert_eq!(find(&only, 0xb, 1).eax, 0);
}

#[test]
fn an_old_host_gets_no_topology_leaf() {
    let old = [leaf(0, 0, [0xa, 0, 0, 0]), leaf(1, 0, [0; 4])];
    let cpuid = Processors::filtered(&old, 2, true).identify(1).unwrap();
    assert!(cpuid.as_slice().iter().all(|entry| entry.function != 0xb));
}

#[test]
fn memory_must_be_within_reach_of_the_processors() {
    let processors = Processors::filtered(&host(), 1, true);
    let up_to = |end: u64| {
        processors.check_reach(&[
            (GuestAddress(0), 1 << 30),
            (GuestAddress(4 << 30), end - (4 << 30)),
        ])
    };
    assert!(up_to((1 << 48) - 4096).is_ok());
    let error = up_to(1 << 49).unwrap_err();
    assert!(matches!(error, MemoryError::BeyondReach { bits: 48, .. }));
    assert!(error.to_string().contains("MiB"));
}
