//! The device as its transport sees it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{ByteValued, Le32};

use super::HostView;
use super::passthrough::Passthrough;
use super::service::FilesystemService;
use crate::devices::virtio::buffers::read_config_space;
use crate::devices::virtio::worker::Worker;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice};
use crate::jail::Thread;

/// The high-priority queue, by which inodes are forgotten, and one for all else. A request of 1 MiB takes up to 259
/// descriptors of the latter when the driver does not put them into a table of their own.
const QUEUE_SIZES: [u16; 2] = [128, 1024];

const TAG_LENGTH: usize = 36;

/// A virtio-fs device.
pub struct Filesystem {
    config: ConfigSpace,
    worker: Worker,
}

/// The configuration space (virtio 1.2, section 5.11.4).
#[repr(C)]
#[derive(Clone, Copy)]
struct ConfigSpace {
    tag: [u8; TAG_LENGTH],
    request_queues: Le32,
}

// SAFETY: bytes and an integer at a multiple of its size, so there is no padding; any bytes are a valid value.
unsafe impl ByteValued for ConfigSpace {}

impl Filesystem {
    /// Shares this process's root. To be called in the jail, by a thread that may start others.
    ///
    /// # Errors
    /// The host's, from opening the root and starting the thread that serves it.
    pub fn new(tag: &str, host: HostView) -> io::Result<Self> {
        let root = openat(
            CWD,
            c"/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Self::of(tag, root, host)
    }

    /// Shares the folder `root`.
    pub(super) fn of(tag: &str, root: OwnedFd, host: HostView) -> io::Result<Self> {
        let mut config = ConfigSpace {
            tag: [0; TAG_LENGTH],
            request_queues: 1.into(),
        };
        for (to, from) in config.tag.iter_mut().zip(tag.bytes()) {
            *to = from;
        }
        let make = move || {
            let files = Passthrough::new(root, host.into_descriptors())?;
            Ok(FilesystemService::new(files))
        };
        let worker = Worker::start("virtio-fs", Thread::Filesystem, make)?;
        Ok(Filesystem { config, worker })
    }
}

impl VirtioDevice for Filesystem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.len() != QUEUE_SIZES.len() {
            return Err(ActivateError::Queues(activation.queues.len(), QUEUE_SIZES.len()));
        }
        self.worker.serve(activation)
    }
}
