//! Serving one request: from the chain to the status byte.

use std::io::Write;
use std::sync::Arc;

use vm_memory::Bytes;

use super::device::Disk;
use super::image::Image;
use super::request::{Header, ID_BYTES, Operation, RawRange, Status};
use crate::devices::virtio::buffers::{self, Chain, Input, Output};
use crate::devices::virtio::worker::Service;
use crate::memory::GuestMemory;

/// Serves the requests of one device.
pub struct BlockService(pub Arc<Disk>);

impl Service for BlockService {
    fn serve(&mut self, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
        let Ok(mut data) = buffers::output(memory, chain.clone()) else {
            return 0;
        };
        // The last byte that the device may write is the status (virtio 1.2, section 5.2.6).
        let Some(length) = data.available_bytes().checked_sub(1) else {
            return 0;
        };
        let Ok(mut status_byte) = data.split_at(length) else {
            return 0;
        };

        let (written, status) = match request(memory, chain) {
            Some((header, mut input)) => self.execute(&header, &mut input, &mut data),
            None => (0, Status::IoError),
        };
        let status_written = status_byte.write_all(&[status as u8]).is_ok();
        // What counts as written is contiguous from the start: the status only if all before it was.
        let written = if written == length && status_written {
            written + 1
        } else {
            written
        };
        // The virtio queue refuses chains of 4 GiB and more.
        u32::try_from(written).unwrap_or(u32::MAX)
    }
}

impl BlockService {
    /// Does what the request asks for, with the `input` behind its header; returns how many bytes of `output` it has written, with
    /// the status.
    fn execute(&self, header: &Header, input: &mut Input<'_>, output: &mut Output<'_>) -> (usize, Status) {
        let image = &self.0.image;
        let lengths = (input.available_bytes() as u64, output.available_bytes() as u64);
        let operation = match Operation::parse(header, lengths.0, lengths.1, image.sectors()) {
            Ok(operation) => operation,
            Err(status) => return (0, status),
        };
        if operation.writes() && image.read_only() {
            return (0, Status::IoError);
        }
        let status = match operation {
            Operation::Read(extent) => image.read(output, extent).1.into(),
            Operation::Write(extent) => image.write(input, extent).into(),
            Operation::Flush => image.flush().into(),
            Operation::Identify => self.identify(output),
            Operation::Discard(count) => each_range(input, count, image, false, |range| {
                image.discard(range.extent).into()
            }),
            Operation::WriteZeroes(count) => each_range(input, count, image, true, |range| {
                image.write_zeroes(range).into()
            }),
        };
        (output.bytes_written(), status)
    }

    fn identify(&self, output: &mut Output<'_>) -> Status {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(self.0.id.bytes()) {
            *to = from;
        }
        let length = output.available_bytes().min(ID_BYTES);
        output.write_all(&id[..length]).into()
    }
}

impl<E> From<Result<(), E>> for Status {
    fn from(result: Result<(), E>) -> Self {
        if result.is_ok() {
            Status::Ok
        } else {
            Status::IoError
        }
    }
}

/// A request's header, and what the driver wrote behind it. None if there is no header, or something is outside of memory.
fn request<'m>(memory: &'m GuestMemory, chain: Chain<'m>) -> Option<(Header, Input<'m>)> {
    let mut descriptors = chain.clone();
    let (first, second) = (descriptors.next()?, descriptors.next()?);
    // All that the device may read precedes what it may write (virtio 1.2, section 2.7.4.2). So a request that reads is known by
    // its first two buffers, and the other hundreds need not be gone through.
    let is_header = first.len() as usize == size_of::<Header>() && !first.is_write_only();
    if is_header && second.is_write_only() {
        return Some((memory.read_obj(first.addr()).ok()?, Input::default()));
    }
    let mut input = buffers::input(memory, chain).ok()?;
    Some((input.read_obj().ok()?, input))
}

/// Has `act` done on each of the `count` ranges of `input`, up to the first that fails.
fn each_range(
    input: &mut Input<'_>,
    count: u32,
    image: &Image,
    may_unmap: bool,
    mut act: impl FnMut(super::request::Range) -> Status,
) -> Status {
    for _ in 0..count {
        let Ok(range) = input.read_obj::<RawRange>() else {
            return Status::IoError;
        };
        let status = range
            .check(image.sectors(), may_unmap)
            .map_or_else(|status| status, &mut act);
        if status != Status::Ok {
            return status;
        }
    }
    Status::Ok
}
