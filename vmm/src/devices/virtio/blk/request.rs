//! What a request asks for, from its header and the lengths of its buffers: pure, and all of it hostile.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{ByteValued, Le32, Le64};

/// The unit of the protocol's addresses and lengths, whatever the block size.
pub const SECTOR: u64 = 512;

/// Length of the answer to [`Operation::Identify`].
pub const ID_BYTES: usize = 20;

/// Most sectors that one range of a discard or write-zeroes request may have: 64 MiB, so that no request keeps the
/// others waiting for long.
pub const MAX_RANGE_SECTORS: u32 = 1 << 17;

/// Most ranges that a discard or write-zeroes request may have.
pub const MAX_RANGES: u32 = 16;

/// The first bytes of every request (virtio 1.2, section 5.2.6).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Header {
    /// One of `VIRTIO_BLK_T_*`.
    pub kind: Le32,
    /// Not used.
    pub reserved: Le32,
    /// Where, for reads and writes, in sectors.
    pub sector: Le64,
}

// SAFETY: three integers without padding; any bytes are a valid value.
unsafe impl ByteValued for Header {}

/// One range of a discard or write-zeroes request.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RawRange {
    /// The first sector.
    pub sector: Le64,
    /// How many.
    pub sectors: Le32,
    /// Bit 0: the space may be given back.
    pub flags: Le32,
}

// SAFETY: three integers without padding; any bytes are a valid value.
unsafe impl ByteValued for RawRange {}

/// How a request ended: the byte that the driver reads (virtio 1.2, section 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or not allowed.
    IoError = 1,
    /// The device does not know such a request.
    Unsupported = 2,
}

/// A part of the image, in bytes, that lies wholly inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

impl Extent {
    /// The extent of `length` bytes that starts at `sector`, if it consists of whole sectors and ends within
    /// `capacity` sectors.
    fn new(sector: u64, length: u64, capacity: u64) -> Option<Self> {
        let end = sector.checked_add(length / SECTOR)?;
        let fits = length.is_multiple_of(SECTOR) && end <= capacity;
        // A capacity in sectors comes from a length in bytes, so an offset inside it does not overflow.
        fits.then(|| Extent {
            offset: sector * SECTOR,
            length,
        })
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffers from the image.
    Read(Extent),
    /// Put what is in the buffers into the image.
    Write(Extent),
    /// Make all finished writes durable.
    Flush,
    /// Say the device's name.
    Identify,
    /// Give up that many ranges, whose contents do not matter any more.
    Discard(u32),
    /// Have that many ranges read as zeros.
    WriteZeroes(u32),
}

impl Operation {
    /// What a request with this header asks for. `input` and `output` are the lengths of its data, without header and
    /// status; `capacity` is the image's, in sectors.
    ///
    /// # Errors
    /// The status that refuses the request.
    pub fn parse(header: &Header, input: u64, output: u64, capacity: u64) -> Result<Self, Status> {
        let sector = header.sector.to_native();
        match header.kind.to_native() {
            VIRTIO_BLK_T_IN if input == 0 => Extent::new(sector, output, capacity)
                .map(Operation::Read)
                .ok_or(Status::IoError),
            VIRTIO_BLK_T_OUT if output == 0 => Extent::new(sector, input, capacity)
                .map(Operation::Write)
                .ok_or(Status::IoError),
            VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
            VIRTIO_BLK_T_GET_ID if output > 0 => Ok(Operation::Identify),
            VIRTIO_BLK_T_DISCARD => ranges(input).map(Operation::Discard),
            VIRTIO_BLK_T_WRITE_ZEROES => ranges(input).map(Operation::WriteZeroes),
            VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_GET_ID => Err(Status::IoError),
            _ => Err(Status::Unsupported),
        }
    }

    /// Whether it changes the image.
    pub fn writes(&self) -> bool {
        matches!(
            self,
            Operation::Write(_) | Operation::Discard(_) | Operation::WriteZeroes(_)
        )
    }
}

/// How many ranges fill `input` bytes.
fn ranges(input: u64) -> Result<u32, Status> {
    let size = size_of::<RawRange>() as u64;
    match u32::try_from(input / size) {
        Ok(count @ 1..=MAX_RANGES) if input.is_multiple_of(size) => Ok(count),
        _ => Err(Status::IoError),
    }
}

/// A checked range, and whether its space may be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Where.
    pub extent: Extent,
    /// Whether the space may be given back. Only for write-zeroes.
    pub unmap: bool,
}

impl RawRange {
    /// Checks the range against the image and against the flags that the operation knows.
    ///
    /// # Errors
    /// The status that refuses the request.
    pub fn check(&self, capacity: u64, may_unmap: bool) -> Result<Range, Status> {
        let sectors = self.sectors.to_native();
        let unmap = match self.flags.to_native() {
            0 => false,
            VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP if may_unmap => true,
            // Section 5.2.6.2: an unknown flag is answered with "unsupported", and so is unmap in a discard.
            _ => return Err(Status::Unsupported),
        };
        if sectors > MAX_RANGE_SECTORS {
            return Err(Status::IoError);
        }
        let extent = Extent::new(self.sector.to_native(), u64::from(sectors) * SECTOR, capacity);
        Ok(Range {
            extent: extent.ok_or(Status::IoError)?,
            unmap,
        })
    }
}
