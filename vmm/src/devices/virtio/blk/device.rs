//! The device as its transport sees it, and the slot by which an image comes later.

use std::fs::File;
use std::sync::{Arc, OnceLock};

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
use crate::devices::virtio::{ActivateError, Activation, Interrupt, VirtioDevice};
use crate::resources::ImageFiles;

const QUEUE_SIZE: u16 = 256;

/// A virtio-blk device.
pub struct Block {
    shared: Arc<Shared>,
    /// Whether it was made without an image.
    reserved: bool,
    worker: Option<Worker>,
}

/// The way to fill a reserved slot, for another thread than the device's.
#[derive(Clone)]
pub struct Slot(Arc<Shared>);

/// An image could not be attached to a slot.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is one already.
    #[error("the disk {0:?} has an image already: attach to another slot")]
    Occupied(String),
    /// The file cannot be an image.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What the device, its worker and its slot have in common.
pub struct Shared {
    id: String,
    image: OnceLock<Image>,
    interrupt: OnceLock<Arc<Interrupt>>,
}

impl Shared {
    /// The device's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The image, if there is one yet.
    pub fn image(&self) -> Option<&Image> {
        self.image.get()
    }
}

impl Block {
    /// A disk of that name over `image`.
    ///
    /// # Errors
    /// When the files cannot be an image.
    pub fn new(id: &str, image: impl Into<ImageFiles>, read_only: bool) -> Result<Self, ImageError> {
        let image = Image::open(image.into(), read_only)?;
        Ok(Self::with(id, OnceLock::from(image), false))
    }

    /// A slot of that name, without an image.
    pub fn reserved(id: &str) -> Self {
        Self::with(id, OnceLock::new(), true)
    }

    fn with(id: &str, image: OnceLock<Image>, reserved: bool) -> Self {
        let shared = Shared {
            id: id.to_owned(),
            image,
            interrupt: OnceLock::new(),
        };
        Block {
            shared: Arc::new(shared),
            reserved,
            worker: None,
        }
    }

    /// What the worker runs.
    pub(super) fn service(&self) -> BlockService {
        BlockService(self.shared.clone())
    }

    /// The way to attach an image later.
    pub fn slot(&self) -> Slot {
        Slot(self.shared.clone())
    }
}

impl Slot {
    /// The slot's name.
    pub fn id(&self) -> &str {
        self.0.id()
    }

    /// Puts an image into the slot and tells the driver that the capacity has changed.
    ///
    /// # Errors
    /// When there is an image already, or the file cannot be one. Nothing has changed then.
    pub fn attach(&self, image: File, read_only: bool) -> Result<(), AttachError> {
        let occupied = || AttachError::Occupied(self.0.id.clone());
        if self.0.image.get().is_some() {
            return Err(occupied());
        }
        let image = Image::open(image.into(), read_only)?;
        self.0.image.set(image).map_err(|_| occupied())?;
        // Before the driver is ready it has not read the capacity yet.
        if let Some(interrupt) = self.0.interrupt.get() {
            interrupt.configuration_changed();
        }
        Ok(())
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
        let read_only = !self.reserved && self.shared.image().is_some_and(Image::read_only);
        let access = if read_only {
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
            capacity: self.shared.image().map_or(0, Image::sectors).into(),
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
        let interrupt = activation.interrupt.clone();
        let service = self.service();
        self.worker = Some(Worker::start("virtio-blk", activation, move || Ok(service))?);
        // An image may have come since the driver read the capacity. To announce it twice does no harm.
        if self.shared.interrupt.set(interrupt.clone()).is_ok()
            && self.reserved
            && self.shared.image().is_some()
        {
            interrupt.configuration_changed();
        }
        Ok(())
    }
}
