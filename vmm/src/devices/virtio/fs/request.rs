//! The head of a request and the requests that `fuse-backend-rs` does not know: pure, and all of it hostile.
//!
//! The layouts are those of `include/uapi/linux/fuse.h`.

use std::io;

use fuse_backend_rs::abi::fuse_abi::{EntryOut, InHeader, Opcode, OpenOut};
use vm_memory::ByteValued;

use crate::devices::virtio::buffers::Input;

/// The longest request: 1 MiB to write, and what goes before it.
pub const MAX_REQUEST: usize = (1 << 20) + (4 << 10);

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `fuse-backend-rs` serves it.
    Common,
    /// As before, but there is no reply.
    Silent,
    /// The file system is being unmounted.
    Destroy,
    /// Copy between two open files.
    CopyFileRange,
    /// Make all durable.
    SyncFs,
    /// Make a file without a name.
    TmpFile,
    /// Attributes, with the time of birth.
    Statx,
    /// Nothing that this device does; the guest's kernel has another way.
    Unknown,
}

impl Kind {
    const SYNCFS: u32 = 50;
    const TMPFILE: u32 = 51;
    const STATX: u32 = 52;

    /// What to do with requests of that operation code.
    pub fn of(opcode: u32) -> Self {
        const COMMON: [Opcode; 31] = [
            Opcode::Lookup,
            Opcode::Getattr,
            Opcode::Setattr,
            Opcode::Readlink,
            Opcode::Symlink,
            Opcode::Mknod,
            Opcode::Mkdir,
            Opcode::Unlink,
            Opcode::Rmdir,
            Opcode::Rename,
            Opcode::Link,
            Opcode::Open,
            Opcode::Read,
            Opcode::Write,
            Opcode::Statfs,
            Opcode::Release,
            Opcode::Fsync,
            Opcode::Setxattr,
            Opcode::Getxattr,
            Opcode::Listxattr,
            Opcode::Removexattr,
            Opcode::Init,
            Opcode::Opendir,
            Opcode::Readdir,
            Opcode::Releasedir,
            Opcode::Fsyncdir,
            Opcode::Create,
            Opcode::Fallocate,
            Opcode::Readdirplus,
            Opcode::Rename2,
            Opcode::Lseek,
        ];
        const SILENT: [Opcode; 3] = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt];
        match opcode {
            _ if COMMON.iter().any(|known| *known as u32 == opcode) => Kind::Common,
            _ if SILENT.iter().any(|known| *known as u32 == opcode) => Kind::Silent,
            _ if opcode == Opcode::Destroy as u32 => Kind::Destroy,
            _ if opcode == Opcode::CopyFileRange as u32 => Kind::CopyFileRange,
            Self::SYNCFS => Kind::SyncFs,
            Self::TMPFILE => Kind::TmpFile,
            Self::STATX => Kind::Statx,
            _ => Kind::Unknown,
        }
    }
}

/// Reads the head of a request and checks its length.
///
/// # Errors
/// When there is no head, or the request is longer than it may be.
pub fn read_header(input: &mut Input<'_>) -> io::Result<InHeader> {
    let available = input.available_bytes();
    let header: InHeader = input.read_obj()?;
    if available > MAX_REQUEST || header.len as usize > available {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(header)
}

/// `struct fuse_copy_file_range_in`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyFileRangeIn {
    pub from_handle: u64,
    pub from_offset: u64,
    pub to_inode: u64,
    pub to_handle: u64,
    pub to_offset: u64,
    pub length: u64,
    pub flags: u64,
}

// SAFETY: integers of one size, so there is no padding; any bytes are a valid value.
unsafe impl ByteValued for CopyFileRangeIn {}

/// The reply to `FUSE_CREATE` and `FUSE_TMPFILE`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOut {
    pub entry: EntryOut,
    pub open: OpenOut,
}

// SAFETY: two structures without padding whose sizes are multiples of 8; any bytes are a valid value.
unsafe impl ByteValued for CreateOut {}

/// `struct fuse_statx_out`, with `struct fuse_statx` in its place.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct StatxOut {
    pub valid: u64,
    pub valid_nanoseconds: u32,
    pub flags: u32,
    pub spare: [u64; 2],
    pub mask: u32,
    pub block_size: u32,
    pub attributes: u64,
    pub links: u32,
    pub user: u32,
    pub group: u32,
    pub mode: u16,
    pub spare_16: u16,
    pub inode: u64,
    pub size: u64,
    pub blocks: u64,
    pub attributes_mask: u64,
    /// Of access, birth, change and modification.
    pub times: [StatxTime; 4],
    pub device_type: [u32; 2],
    pub device: [u32; 2],
    pub spare_end: [u64; 14],
}

// SAFETY: every field is at a multiple of its size and the size is a multiple of 8, so there is no padding; any bytes
// are a valid value.
unsafe impl ByteValued for StatxOut {}

/// `struct fuse_sx_time`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct StatxTime {
    pub seconds: i64,
    pub nanoseconds: u32,
    pub reserved: i32,
}

const _: () = assert!(size_of::<StatxOut>() == 32 + 256);
const _: () = assert!(size_of::<CreateOut>() == 128 + 16);
