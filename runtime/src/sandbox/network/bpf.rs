//! bpf(2), as far as it takes to choose the socket that a connection gets (`BPF_PROG_TYPE_SK_LOOKUP`).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;

const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;

/// An instruction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high.
    pub registers: u8,
    /// Distance of a jump from the next instruction, or of a memory access from the register's address.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

/// A map that holds one socket.
///
/// # Errors
/// The kernel is older than 5.9, or made without it.
pub fn map_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Update {
        map: u64,
        key: u64,
        value: u64,
        flags: u64,
    }
    let map = make(
        BPF_MAP_CREATE,
        &Create {
            kind: BPF_MAP_TYPE_SOCKMAP,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<RawFd>() as u32,
            max_entries: 1,
            flags: 0,
        },
    )?;
    let (key, value) = (0_u32, socket.as_raw_fd());
    let update = Update {
        map: number(&map),
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads `update`, and a key and a value of the sizes that the map has.
    unsafe { call(BPF_MAP_UPDATE_ELEM, &update) }?;
    Ok(map)
}

/// Loads a program that chooses sockets.
///
/// # Errors
/// The verifier refuses it, or the calling process is not privileged.
pub fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    make(
        BPF_PROG_LOAD,
        &Load {
            kind: BPF_PROG_TYPE_SK_LOOKUP,
            count: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            instructions: program.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"bulkhead\0\0\0\0\0\0\0\0",
            interface: 0,
            attach_type: BPF_SK_LOOKUP,
        },
    )
}

/// Has a program asked in a network namespace, for as long as the answer is open.
///
/// # Errors
/// The namespace has as many programs as it can have, or the calling process is not privileged.
pub fn attach(program: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        target: u32,
        kind: u32,
        flags: u32,
    }
    make(
        BPF_LINK_CREATE,
        &Create {
            program: program.as_raw_fd().cast_unsigned(),
            target: namespace.as_raw_fd().cast_unsigned(),
            kind: BPF_SK_LOOKUP,
            flags: 0,
        },
    )
}

fn number(descriptor: &OwnedFd) -> u64 {
    u64::from(descriptor.as_raw_fd().cast_unsigned())
}

/// A command that makes a descriptor, and reads nothing but its attributes and what `load` points them to.
fn make<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are the command's, and their pointers lead to what lives until it returns.
    let descriptor = unsafe { call(command, attributes) }?;
    // SAFETY: the call has made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
/// `attributes` are those of the command, and the kernel can read and write what they point to.
unsafe fn call<A>(command: libc::c_int, attributes: &A) -> io::Result<RawFd> {
    // SAFETY: by this function's contract.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<A>(),
        )
    };
    // Descriptors are small.
    RawFd::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}
