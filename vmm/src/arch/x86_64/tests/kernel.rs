use std::fs::File;
use std::io::{Seek, Write};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::arch::x86_64::boot::EntryPoint;
use crate::arch::x86_64::kernel::{self, KernelError, LoadedKernel};
use crate::arch::x86_64::layout;
use crate::config::MemoryBacking;
use crate::memory::{self, GuestMemory};

const MEMORY_MIB: u64 = 32;
const LOAD: u64 = 0x100_0000;
const CODE: &[u8] = b"the kernel's code and data";
/// Where the image has the code, and behind it the note.
const CODE_OFFSET: u64 = 64 + 2 * 56;

fn memory() -> GuestMemory {
    memory::allocate(&layout::ram(MEMORY_MIB << 20), MemoryBacking::default()).unwrap()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// An ELF kernel with a loadable segment, and a note of that PVH entry point.
fn vmlinux(address: u64, memory_size: u64, pvh: Option<u32>) -> Vec<u8> {
    let mut note = Vec::new();
    if let Some(entry) = pvh {
        for word in [4, 4, 18] {
            note.extend_from_slice(&u32::to_le_bytes(word));
        }
        note.extend_from_slice(b"Xen\0");
        note.extend_from_slice(&entry.to_le_bytes());
    }
    let mut image = Vec::new();
    image.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    image.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [address, 64, 0] {
        image.extend_from_slice(&word.to_le_bytes());
    }
    image.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    let code_size = CODE.len() as u64;
    for (kind, offset, address, size, memory_size) in [
        (1u64, CODE_OFFSET, address, code_size, memory_size),
        (
            4,
            CODE_OFFSET + code_size,
            0,
            note.len() as u64,
            note.len() as u64,
        ),
    ] {
        for word in [kind, offset, address, address, size, memory_size, 4] {
            image.extend_from_slice(&word.to_le_bytes());
        }
    }
    image.extend_from_slice(CODE);
    image.extend_from_slice(&note);
    image
}

fn load(image: &[u8]) -> Result<LoadedKernel, KernelError> {
    kernel::load(&memory(), file(image))
}

#[test]
fn a_kernel_is_where_its_headers_say() {
    let memory = memory();
    let kernel = kernel::load(&memory, file(&vmlinux(LOAD, 0x5000, None))).unwrap();
    assert_eq!(kernel.entry, EntryPoint::Linux64(GuestAddress(LOAD)));
    assert_eq!(kernel.end, GuestAddress(LOAD + 0x5000));
    let mut code = vec![0; CODE.len()];
    memory.read_slice(&mut code, GuestAddress(LOAD)).unwrap();
    assert_eq!(code, CODE);
}

#[test]
fn pvh_is_preferred() {
    let kernel = load(&vmlinux(LOAD, 0x5000, Some(0x123_4000))).unwrap();
    assert_eq!(kernel.entry, EntryPoint::Pvh(GuestAddress(0x123_4000)));
}

#[test]
fn what_is_no_kernel_is_refused_in_one_clear_line() {
    let good = vmlinux(LOAD, 0x5000, None);
    let mut arm = good.clone();
    arm[18] = 183;
    let mut small = good.clone();
    small[4] = 1;
    let mut bzimage = vec![0; 0x300];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    let mut nothing_to_load = good.clone();
    nothing_to_load[64] = 6;
    let cases: [(&[u8], &str); 11] = [
        (b"", "the kernel is empty"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (&bzimage, "bzImage"),
        (b"\x7fELF", "truncated"),
        (&good[..100], "truncated"),
        (&good[..good.len() - 1], "truncated"),
        (&arm, "another machine (64-bit, ELF machine 183)"),
        (&small, "another machine (32-bit"),
        (&nothing_to_load, "no loadable segment"),
        (&vmlinux(0x8000, 0x1000, None), "below 1 MiB"),
        (
            &vmlinux(LOAD, 64 << 20, None),
            "32 MiB is too small: the kernel needs it to have at least 80 MiB",
        ),
    ];
    for (image, expected) in cases {
        let error = load(image).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains(expected) && !error.contains('\n'),
            "{error:?} does not say {expected:?}"
        );
    }
}

#[test]
fn an_initramfs_is_behind_the_kernel_with_its_second_page_where_a_folio_begins() {
    let memory = memory();
    let kernel = kernel::load(&memory, file(&vmlinux(LOAD, 0x5000, None))).unwrap();
    let initramfs = kernel::load_initramfs(&memory, &kernel, file(b"cpio")).unwrap();
    assert_eq!(
        (initramfs.start, initramfs.size),
        (GuestAddress(LOAD + 0xf000), 4)
    );
    let mut bytes = [0; 4];
    memory.read_slice(&mut bytes, initramfs.start).unwrap();
    assert_eq!(&bytes, b"cpio");
}

#[test]
fn an_initramfs_that_is_empty_or_too_large_is_refused() {
    let memory = memory();
    let kernel = kernel::load(&memory, file(&vmlinux(LOAD, 0x5000, None))).unwrap();
    let error = |image| {
        kernel::load_initramfs(&memory, &kernel, image)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error(file(b"")), "the initramfs is empty");
    let large = tempfile::tempfile().unwrap();
    large.set_len(17 << 20).unwrap();
    assert!(error(large).contains("kernel with its initramfs needs it to have at least 34 MiB"));
    let huge = tempfile::tempfile().unwrap();
    huge.set_len(1 << 40).unwrap();
    assert!(error(huge).contains("too small"));
}

proptest! {
    #[test]
    fn no_image_panics(mut image in Just(vmlinux(LOAD, 0x5000, Some(0x100_0000))),
                       changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
                       length in any::<prop::sample::Index>()) {
        for (at, byte) in changes {
            let at = at.index(image.len());
            image[at] = byte;
        }
        image.truncate(length.index(image.len() + 1));
        let _ = load(&image);
    }
}
