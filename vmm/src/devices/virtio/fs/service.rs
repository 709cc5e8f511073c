//! Serving one request: from the chain to the reply.

use std::io::{self, Write};
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, EntryOut, InHeader, OpenOut, OutHeader, WriteOut};
use fuse_backend_rs::api::filesystem::{Context, FileSystem};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::Writer;
use rustix::fs::{Statx, StatxTimestamp};
use vm_memory::ByteValued;

use super::passthrough::{Opened, Passthrough};
use super::request::{CopyFileRangeIn, CreateOut, Kind, StatxOut, StatxTime, read_header};
use crate::devices::virtio::buffers::{self, Chain, Input, Output};
use crate::devices::virtio::worker::Service;
use crate::memory::GuestMemory;

/// Serves the requests of one device.
pub struct FilesystemService {
    files: Arc<Passthrough>,
    server: Server<Arc<Passthrough>>,
}

impl FilesystemService {
    /// Serves that folder.
    pub fn new(files: Passthrough) -> Self {
        let files = Arc::new(files);
        FilesystemService {
            server: Server::new(files.clone()),
            files,
        }
    }
}

impl Service for FilesystemService {
    fn serve(&mut self, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
        let (Ok(input), Ok(output)) = (
            buffers::input(memory, chain.clone()),
            buffers::output(memory, chain),
        ) else {
            return 0;
        };
        let written = self.answer(input, output);
        // The virtio queue refuses chains of 4 GiB and more.
        u32::try_from(written).unwrap_or(u32::MAX)
    }
}

impl FilesystemService {
    /// How many inodes are remembered.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.files.remembered()
    }

    /// Answers one request and returns the length of the reply: 0 if there is none.
    fn answer(&self, input: Input<'_>, output: Output<'_>) -> usize {
        let mut body = input.clone();
        let Ok(header) = read_header(&mut body) else {
            // Without a head there is no number by which the driver would know the reply.
            return 0;
        };
        let reply = Reply {
            request: header.unique,
            output: output.clone(),
        };
        let kind = Kind::of(header.opcode);
        match kind {
            Kind::Silent => {
                // A request that cannot be read has no effect, and nobody waits for an answer.
                let _ = self
                    .server
                    .handle_message(input, Writer::VirtioFs(output), None, None);
                0
            }
            Kind::Common => {
                match self
                    .server
                    .handle_message(input, Writer::VirtioFs(output), None, None)
                {
                    Ok(written) => written,
                    // The request contradicts itself, or there is no room for the reply.
                    Err(_) => reply.error(&io::Error::from_raw_os_error(libc::EINVAL)),
                }
            }
            Kind::Destroy => {
                self.files.destroy();
                reply.empty()
            }
            Kind::CopyFileRange => reply.result(self.copy_file_range(&header, &mut body)),
            Kind::SyncFs => reply.outcome(self.files.sync(header.nodeid)),
            Kind::TmpFile => reply.result(self.create_unnamed(&header, &mut body)),
            Kind::Statx => reply.result(self.statx(&header)),
            Kind::Unknown => reply.error(&io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    fn copy_file_range(&self, header: &InHeader, body: &mut Input<'_>) -> io::Result<WriteOut> {
        let CopyFileRangeIn {
            from_handle,
            from_offset,
            to_inode,
            to_handle,
            to_offset,
            length,
            flags,
        } = body.read_obj()?;
        if flags != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let from = (header.nodeid, from_handle, from_offset);
        let copied = self.files.copy(from, (to_inode, to_handle, to_offset), length)?;
        let size = u32::try_from(copied).map_err(io::Error::other)?;
        Ok(WriteOut { size, padding: 0 })
    }

    fn create_unnamed(&self, header: &InHeader, body: &mut Input<'_>) -> io::Result<CreateOut> {
        let args: CreateIn = body.read_obj()?;
        let request = Context::from(header);
        let Opened {
            entry,
            handle,
            options,
        } = self.files.create_unnamed(&request, header.nodeid, &args)?;
        let open = OpenOut {
            fh: handle,
            open_flags: options.bits(),
            passthrough: 0,
        };
        Ok(CreateOut {
            entry: EntryOut::from(entry),
            open,
        })
    }

    fn statx(&self, header: &InHeader) -> io::Result<StatxOut> {
        let (status, valid) = self.files.status(header.nodeid)?;
        Ok(statx_out(status.as_statx(), valid.as_secs()))
    }
}

/// What a file's attributes are in the protocol. The device is left out: the guest's kernel has its own.
fn statx_out(status: &Statx, valid: u64) -> StatxOut {
    let time = |time: StatxTimestamp| StatxTime {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
        reserved: 0,
    };
    StatxOut {
        valid,
        mask: status.stx_mask & (libc::STATX_BASIC_STATS | libc::STATX_BTIME),
        block_size: status.stx_blksize,
        links: status.stx_nlink,
        user: status.stx_uid,
        group: status.stx_gid,
        mode: status.stx_mode,
        inode: status.stx_ino,
        size: status.stx_size,
        blocks: status.stx_blocks,
        times: [
            status.stx_atime,
            status.stx_btime,
            status.stx_ctime,
            status.stx_mtime,
        ]
        .map(time),
        device_type: [status.stx_rdev_major, status.stx_rdev_minor],
        ..StatxOut::default()
    }
}

/// The place for a reply to one request.
struct Reply<'m> {
    request: u64,
    output: Output<'m>,
}

impl Reply<'_> {
    fn result<T: ByteValued>(self, result: io::Result<T>) -> usize {
        match result {
            Ok(body) => self.send(0, body.as_slice()),
            Err(error) => self.error(&error),
        }
    }

    fn outcome(self, result: io::Result<()>) -> usize {
        match result {
            Ok(()) => self.empty(),
            Err(error) => self.error(&error),
        }
    }

    fn empty(self) -> usize {
        self.send(0, &[])
    }

    fn error(self, error: &io::Error) -> usize {
        self.send(-error.raw_os_error().unwrap_or(libc::EIO), &[])
    }

    /// Writes the reply and returns its length: 0 if there is no room for it.
    fn send(mut self, error: i32, body: &[u8]) -> usize {
        let length = size_of::<OutHeader>() + body.len();
        let Ok(len) = u32::try_from(length) else { return 0 };
        if self.output.available_bytes() < length {
            return 0;
        }
        let header = OutHeader {
            len,
            error,
            unique: self.request,
        };
        let sent = self
            .output
            .write_all(header.as_slice())
            .and_then(|()| self.output.write_all(body));
        if sent.is_ok() { length } else { 0 }
    }
}
