//! Filters of system calls that tests give to what they start.

use std::ffi::c_ulong;
use std::io;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Loads the 32 bits of `struct seccomp_data` at this offset.
pub fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0)
}

/// Goes on if that was loaded, and otherwise leaves out so many instructions.
pub fn unless(loaded: u32, left_out: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, loaded, left_out)
}

/// Ends with this action.
pub fn end(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0)
}

fn instruction(code: u32, k: u32, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    }
}

/// Installs a filter for the calling thread, which is root's; returns what the call does. Allocates nothing.
///
/// # Errors
/// Those of seccomp(2).
pub fn install(mut filter: impl AsMut<[sock_filter]>, flags: c_ulong) -> io::Result<libc::c_long> {
    let filter = filter.as_mut();
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
