use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::NamedTempFile;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::request::{Extent, Header, MAX_RANGES, Operation, RawRange, SECTOR, Status};
use super::service::BlockService;
use super::*;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mock_driver::{self, MEMORY_SIZE, Served, serve};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const SECTORS: u64 = 64;
const SECTOR_LEN: usize = 512;

/// An image whose every byte is its sector's number plus one.
fn image() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&vec![u8::try_from(sector + 1).unwrap(); SECTOR_LEN])
            .unwrap();
    }
    file
}

fn device(file: &NamedTempFile, read_only: bool) -> Block {
    Block::new("disk", file.reopen().unwrap(), read_only).unwrap()
}

fn service(file: &NamedTempFile, read_only: bool) -> BlockService {
    device(file, read_only).service()
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let header = Header {
        kind: kind.into(),
        reserved: 0.into(),
        sector: sector.into(),
    };
    header.as_slice().to_vec()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let range = RawRange {
        sector: sector.into(),
        sectors: sectors.into(),
        flags: flags.into(),
    };
    range.as_slice().to_vec()
}

fn status(served: &Served) -> u8 {
    *served.output.last().unwrap()
}

fn sector_of(file: &NamedTempFile, sector: u64) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR_LEN];
    file.as_file().read_exact_at(&mut bytes, sector * SECTOR).unwrap();
    bytes
}

#[test]
fn a_buffer_that_the_driver_has_not_written_is_no_header() {
    let file = image();
    let memory = mock_driver::memory();
    // All zeros, which as a header would ask for the first sector.
    let buffers = [(0x8000, 16, true), (0x9000, 496, true), (0xa000, 1, true)];
    mock_driver::serve_raw(&mut service(&file, true), &memory, &buffers);
    let status: u8 = memory.read_obj(GuestAddress(0xa000)).unwrap();
    assert_eq!(status, Status::IoError as u8);
}

#[test]
fn reads_into_scattered_buffers() {
    let file = image();
    let served = serve(&mut service(&file, true), &[&header(IN, 3)], &[512, 1000, 24, 1]);
    assert_eq!(served.written, 1537);
    assert_eq!(served.output[..512], [4; 512]);
    assert_eq!(served.output[512..1024], [5; 512]);
    assert_eq!(served.output[1024..1536], [6; 512]);
    assert_eq!(status(&served), Status::Ok as u8);
}

#[test]
fn takes_a_request_however_it_is_cut() {
    let file = image();
    let request = header(OUT, 7);
    let served = serve(
        &mut service(&file, false),
        &[&request[..5], &request[5..], &[9; 500], &[9; 12]],
        &[1],
    );
    assert_eq!((served.written, status(&served)), (1, Status::Ok as u8));
    assert_eq!(sector_of(&file, 7), [9; 512]);
    // The status may share a buffer with the data.
    let served = serve(&mut service(&file, false), &[&header(IN, 7)], &[513]);
    assert_eq!((served.written, status(&served)), (513, Status::Ok as u8));
    assert_eq!(served.output[..512], [9; 512]);
}

#[test]
fn refuses_what_is_not_wholly_inside_the_image() {
    let file = image();
    let mut service = service(&file, false);
    for (sector, length) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (0, 100),
    ] {
        let served = serve(&mut service, &[&header(IN, sector)], &[length, 1]);
        assert_eq!(status(&served), Status::IoError as u8, "{sector} {length}");
        assert_eq!(served.written, 0);
        assert!(served.output[..length].iter().all(|&byte| byte == 0xa5));
        let served = serve(&mut service, &[&header(OUT, sector), &vec![7; length]], &[1]);
        assert_eq!(status(&served), Status::IoError as u8, "{sector} {length}");
    }
    assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * SECTOR);
    assert_eq!(sector_of(&file, 0), [1; 512]);
}

#[test]
fn a_read_only_image_is_never_changed() {
    let file = image();
    let mut service = service(&file, true);
    let requests: [&[&[u8]]; 3] = [
        &[&header(OUT, 0), &[7; 512]],
        &[&header(DISCARD, 0), &range(0, 8, 0)],
        &[&header(WRITE_ZEROES, 0), &range(0, 8, 0)],
    ];
    for request in requests {
        assert_eq!(status(&serve(&mut service, request, &[1])), Status::IoError as u8);
    }
    assert_eq!(sector_of(&file, 0), [1; 512]);
}

#[test]
fn says_its_name_padded_with_zeros() {
    let file = image();
    let served = serve(&mut service(&file, true), &[&header(GET_ID, 0)], &[20, 1]);
    assert_eq!(served.output, b"disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(served.written, 21);
}

#[test]
fn flushes_discards_and_writes_zeroes() {
    let file = image();
    let mut service = service(&file, false);
    assert_eq!(status(&serve(&mut service, &[&header(FLUSH, 0)], &[1])), 0);
    assert_eq!(
        status(&serve(
            &mut service,
            &[&header(DISCARD, 0), &range(1, 2, 0), &range(60, 4, 0)],
            &[1]
        )),
        0
    );
    assert_eq!(
        status(&serve(
            &mut service,
            &[&header(WRITE_ZEROES, 0), &range(10, 1, 0)],
            &[1]
        )),
        0
    );
    assert_eq!(
        status(&serve(
            &mut service,
            &[&header(WRITE_ZEROES, 0), &range(12, 2, 1)],
            &[1]
        )),
        0
    );
    assert_eq!(sector_of(&file, 10), [0; 512]);
    assert_eq!(sector_of(&file, 11), [12; 512]);
    assert_eq!(sector_of(&file, 13), [0; 512]);
    assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * SECTOR);
}

#[test]
fn refuses_bad_ranges() {
    let file = image();
    let mut service = service(&file, false);
    let mut refuses = |kind, ranges: &[u8], expected: Status| {
        let served = serve(&mut service, &[&header(kind, 0), ranges], &[1]);
        assert_eq!(status(&served), expected as u8, "{kind} {ranges:?}");
    };
    refuses(DISCARD, &[], Status::IoError);
    refuses(DISCARD, &range(0, 1, 0)[..15], Status::IoError);
    refuses(
        DISCARD,
        &range(0, 1, 0).repeat(MAX_RANGES as usize + 1),
        Status::IoError,
    );
    refuses(DISCARD, &range(SECTORS, 1, 0), Status::IoError);
    refuses(DISCARD, &range(u64::MAX, u32::MAX, 0), Status::IoError);
    refuses(DISCARD, &range(0, 1, 1), Status::Unsupported);
    refuses(WRITE_ZEROES, &range(0, 1, 2), Status::Unsupported);
    refuses(99, &[], Status::Unsupported);
}

#[test]
fn answers_even_when_there_is_no_header() {
    let file = image();
    assert_eq!(
        status(&serve(&mut service(&file, false), &[&[0; 15]], &[1])),
        Status::IoError as u8
    );
    assert_eq!(
        status(&serve(&mut service(&file, false), &[], &[1])),
        Status::IoError as u8
    );
    assert_eq!(
        serve(&mut service(&file, false), &[&header(FLUSH, 0)], &[]).written,
        0
    );
}

#[test]
fn an_image_cut_short_is_an_error_not_old_memory() {
    let file = image();
    let mut service = service(&file, true);
    file.as_file().set_len(2 * SECTOR).unwrap();
    let served = serve(&mut service, &[&header(IN, 1)], &[1024, 1]);
    assert_eq!((served.written, status(&served)), (512, Status::IoError as u8));
}

#[test]
fn says_whether_it_is_read_only() {
    let file = image();
    const RO: u64 = 1 << 5;
    assert_ne!(device(&file, true).features() & RO, 0);
    assert_eq!(device(&file, false).features() & RO, 0);
}

#[test]
fn the_configuration_space_says_the_capacity() {
    let file = image();
    let mut bytes = [0xff; 16];
    device(&file, false).read_config(0, &mut bytes);
    assert_eq!(bytes, [64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0]);
    let mut beyond = [0xff; 4];
    device(&file, false).read_config(62, &mut beyond);
    assert_eq!(beyond, [0, 0, 0xff, 0xff]);
    device(&file, false).read_config(u64::MAX, &mut beyond);
}

#[test]
fn refuses_files_that_are_no_image() {
    let error = |file: File, read_only| Block::new("x", file, read_only).err().expect("an error");
    assert!(matches!(error(File::open("/").unwrap(), true), ImageError::Type));
    assert!(matches!(
        error(File::open("/dev/null").unwrap(), true),
        ImageError::Type
    ));
    let file = image();
    assert!(matches!(
        error(File::open(file.path()).unwrap(), false),
        ImageError::Access("writing")
    ));
    let write_only = File::options().write(true).open(file.path()).unwrap();
    assert!(matches!(error(write_only, true), ImageError::Access("reading")));
    file.as_file().set_len(511).unwrap();
    assert!(matches!(error(file.reopen().unwrap(), true), ImageError::Empty));
}

proptest! {
    #[test]
    fn an_extent_is_inside_the_image(
        kind in prop_oneof![Just(IN), Just(OUT)],
        sector: u64,
        length: u64,
        capacity in 0..=u64::MAX / SECTOR,
    ) {
        let header = Header { kind: kind.into(), reserved: 0.into(), sector: sector.into() };
        let (input, output) = if kind == IN { (0, length) } else { (length, 0) };
        if let Ok(Operation::Read(extent) | Operation::Write(extent)) = Operation::parse(&header, input, output, capacity) {
            let Extent { offset, length } = extent;
            prop_assert_eq!((offset % SECTOR, length % SECTOR), (0, 0));
            prop_assert!(offset.checked_add(length).unwrap() <= capacity * SECTOR);
        }
    }

    /// Requests of random bytes never change the image's length, and end with a status.
    #[test]
    fn random_requests_are_answered(
        kind in prop_oneof![Just(IN), Just(OUT), Just(FLUSH), Just(GET_ID), Just(DISCARD), Just(WRITE_ZEROES), any::<u32>()],
        sector in prop_oneof![0..2 * SECTORS, any::<u64>()],
        data in proptest::collection::vec(any::<u8>(), 0..2048),
        cut in 0..16usize,
        output in proptest::collection::vec(0..1500usize, 0..4),
    ) {
        let file = image();
        let mut output = output;
        output.push(1);
        let header = header(kind, sector);
        let served = serve(&mut service(&file, false), &[&header[..cut], &header[cut..], &data], &output);
        prop_assert!(served.written as usize <= served.output.len());
        prop_assert!(status(&served) <= 2);
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * SECTOR);
    }

    /// Descriptors that point anywhere neither panic nor reach memory that is not the guest's.
    #[test]
    fn random_descriptors_are_survived(
        descriptors in proptest::collection::vec(
            (
                prop_oneof![0x10_0000..MEMORY_SIZE as u64, any::<u64>()],
                prop_oneof![0..4096u32, any::<u32>()],
                any::<bool>(),
            ),
            1..8,
        ),
        bytes in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let file = image();
        let memory = mock_driver::memory();
        for &(address, ..) in &descriptors {
            let _ = memory.write(&bytes, GuestAddress(address));
        }
        mock_driver::serve_raw(&mut service(&file, false), &memory, &descriptors);
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * SECTOR);
    }
}
