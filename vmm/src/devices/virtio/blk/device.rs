//! The device as its transport sees it.

use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{ByteValued, Le16, Le32, Le64};

use super::image::{Image, ImageError};
use super::request::{MAX_RANGE_SECTORS, MAX_RANGES};
use super::service::BlockService;
use crate::devices::virtio::buffers::read_config_space;
use crate::devices::virtio::worker::Worker;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice};
use crate::jail::Thread;
use crate::resources::ImageFiles;

const QUEUE_SIZE: u16 = 256;

/// A virtio-blk device.
pub struct Block {
    disk: Arc<Disk>,
    worker: Worker,
}

/// What the device and its worker have in common.
pub struct Disk {
    /// Its name.
    pub id: String,
    /// Its contents.
    pub image: Image,
}

impl Block {
    /// A disk of that name over `image`, with the thread that will serve it.
    ///
    /// # Errors
    /// When the files cannot be an image, or there is no thread for it.
    pub fn new(id: &str, image: impl Into<ImageFiles>, read_only: bool) -> Result<Self, ImageError> {
        let disk = Disk {
            id: id.to_owned(),
            image: Image::open(image.into(), read_only)?,
        };
        let disk = Arc::new(disk);
        let service = BlockService(Arc::clone(&disk));
        let worker =
            Worker::start("virtio-blk", Thread::Block, move || Ok(service)).map_err(ImageError::Worker)?;
        Ok(Block { disk, worker })
    }

    /// What the worker runs.
    #[cfg(test)]
    pub(super) fn service(&self) -> BlockService {
        BlockService(Arc::clone(&self.disk))
    }
}

/// The configuration space (virtio 1.2, section 5.2.4) as far as the offered features give it a meaning.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ConfigSpace {
    capacity: Le64,
    size_max: Le32,
    seg_max: Le32,
    geometry: [u8; 4],
    blk_size: Le32,
    topology: [u8; 8],
    writeback: u8,
    unused: u8,
    num_queues: Le16,
    max_discard_sectors: Le32,
    max_discard_seg: Le32,
    discard_sector_alignment: Le32,
    max_write_zeroes_sectors: Le32,
    max_write_zeroes_seg: Le32,
    write_zeroes_may_unmap: u8,
    unused_end: [u8; 3],
    max_secure_erase_sectors: Le32,
}

// SAFETY: integers in an order that leaves no padding (64 bytes); any bytes are a valid value.
unsafe impl ByteValued for ConfigSpace {}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let access = if self.disk.image.read_only() {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        access
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = ConfigSpace {
            capacity: self.disk.image.sectors().into(),
            // Header and status take two descriptors.
            seg_max: u32::from(QUEUE_SIZE - 2).into(),
            blk_size: 512.into(),
            max_discard_sectors: MAX_RANGE_SECTORS.into(),
            max_discard_seg: MAX_RANGES.into(),
            discard_sector_alignment: 1.into(),
            max_write_zeroes_sectors: MAX_RANGE_SECTORS.into(),
            max_write_zeroes_seg: MAX_RANGES.into(),
            write_zeroes_may_unmap: 1,
            ..ConfigSpace::default()
        };
        read_config_space(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.len() != 1 {
            return Err(ActivateError::Queues(activation.queues.len(), 1));
        }
        self.worker.serve(activation)
    }
}
