//! The table that tells the guest its processors and interrupts in the absence of ACPI (Intel MultiProcessor
//! Specification 1.4, chapter 4).

use vm_memory::{Address, Bytes, GuestMemoryError};

use super::layout;
use crate::memory::GuestMemory;

const VERSION_1_4: u8 = 4;
/// The versions that KVM's emulation has.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const IOAPIC_PINS: u8 = 24;

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
const ISA_BUS: u8 = 0;

/// Interrupt types.
const VECTORED: u8 = 0;
const NON_MASKABLE: u8 = 1;
const FROM_PIC: u8 = 3;

/// Every local APIC.
const ALL_APICS: u8 = 0xff;

/// Writes the table for `processors` processors, whose APIC IDs are 0, 1, 2, …
pub fn write(memory: &GuestMemory, processors: u8) -> Result<(), GuestMemoryError> {
    memory.write_slice(&configuration(processors), layout::MP_TABLE)?;
    memory.write_slice(&floating_pointer(), layout::MP_POINTER)
}

fn floating_pointer() -> [u8; 16] {
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&table_address());
    pointer[8] = 1; // Its length in units of 16 bytes.
    pointer[9] = VERSION_1_4;
    pointer[10] = checksum(&pointer);
    pointer
}

fn table_address() -> [u8; 4] {
    u32::try_from(layout::MP_TABLE.raw_value())
        .expect("the table is below 1 MiB")
        .to_le_bytes()
}

fn configuration(processors: u8) -> Vec<u8> {
    let ioapic_id = processors;
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..processors {
        let flags = if id == 0 {
            ENABLED | BOOT_PROCESSOR
        } else {
            ENABLED
        };
        let mut processor = [0; 20];
        processor[..4].copy_from_slice(&[0, id, LOCAL_APIC_VERSION, flags]);
        add(&processor);
    }
    add(&[1, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = layout::IOAPIC.to_le_bytes();
    add(&[2, ioapic_id, IOAPIC_VERSION, ENABLED, a, b, c, d]);
    for pin in 0..IOAPIC_PINS {
        add(&[3, VECTORED, 0, 0, ISA_BUS, pin, ioapic_id, pin]);
    }
    add(&[4, FROM_PIC, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[4, NON_MASKABLE, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);

    let mut table = Vec::with_capacity(44 + entries.len());
    table.extend_from_slice(b"PCMP");
    let length = u16::try_from(44 + entries.len()).expect("256 processors take less than 6 KiB");
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[VERSION_1_4, 0]);
    table.extend_from_slice(b"BULKHEADMICROVM     ");
    table.extend_from_slice(&[0; 6]); // No table of the manufacturer's.
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]); // No extended table.
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}
