//! A request's buffers in guest memory, as a stream to read and a stream to write.

use fuse_backend_rs::transport;
use virtio_queue::DescriptorChain;
use vm_memory::ByteValued;

use crate::memory::GuestMemory;

/// A request: the buffers that the driver has chained.
pub type Chain<'m> = DescriptorChain<&'m GuestMemory>;

/// What the driver wrote, in order. Reading consumes it, also straight into a file.
pub type Input<'m> = transport::Reader<'m>;

/// Where the device may write, in order. Writing consumes it, also straight from a file.
pub type Output<'m> = transport::VirtioFsWriter<'m>;

/// How much of a guest's buffers is written to a file by one system call. tmpfs of Linux 6.12 touches, before it copies
/// each page, all that is left of the call: 1 MiB in buffers of a page costs three times as much in one call as in sixteen.
/// Other file systems have fifteen calls more.
pub const WRITTEN_AT_ONCE: usize = 64 << 10;

/// The buffers of `chain` that the device may read.
///
/// # Errors
/// A buffer that is not wholly inside one region of guest memory.
pub fn input<'m>(memory: &'m GuestMemory, chain: Chain<'m>) -> Result<Input<'m>, transport::Error> {
    Input::from_descriptor_chain(memory, chain)
}

/// The buffers of `chain` that the device may write.
///
/// # Errors
/// As for [`input`].
pub fn output<'m>(memory: &'m GuestMemory, chain: Chain<'m>) -> Result<Output<'m>, transport::Error> {
    Output::new(memory, chain)
}

/// Copies as much of `bytes` into `data`, a configuration space read at `offset`, as there is.
pub fn read_config_space<T: ByteValued>(config: &T, offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.as_slice().get(offset..));
    for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}
