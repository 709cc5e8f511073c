use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::tempfile;

use super::*;
use crate::resources::Referred;

/// Blocks of the disks below, which have five: the second is not in the file, the last is not whole.
const BLOCK: usize = 4096;
const SIZE: usize = 4 * BLOCK + 512;

/// What the disks hold.
fn contents() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE)
        .map(|at| u8::try_from(at / 512 % 251).unwrap() + 1)
        .collect();
    bytes[BLOCK..2 * BLOCK].fill(0);
    bytes
}

/// A file of these bytes.
fn file(bytes: &[u8]) -> File {
    let mut file = tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A file that is put together piece by piece.
#[derive(Default)]
struct Pieces(Vec<u8>);

impl Pieces {
    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        let end = at + bytes.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[at..end].copy_from_slice(bytes);
        self
    }

    /// The blocks that are there, each at the place given for it.
    fn put_blocks(&mut self, places: [Option<usize>; 5]) -> &mut Self {
        for (block, place) in contents().chunks(BLOCK).zip(places) {
            if let Some(place) = place {
                self.put(place, block);
            }
        }
        self
    }
}

fn with_checksum(mut structure: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = vhd::checksum(&structure, at).to_be_bytes();
    structure[at..at + 4].copy_from_slice(&sum);
    structure
}

fn vhd_footer(kind: u32) -> Vec<u8> {
    let mut footer = Pieces(vec![0; 512]);
    footer
        .put(0, b"conectix")
        .put(16, &512u64.to_be_bytes())
        .put(48, &(SIZE as u64).to_be_bytes())
        .put(60, &kind.to_be_bytes());
    with_checksum(footer.0, 64)
}

fn fixed_vhd() -> Vec<u8> {
    let mut bytes = contents();
    bytes.extend(vhd_footer(2));
    bytes
}

fn dynamic_vhd() -> Vec<u8> {
    let mut header = Pieces(vec![0; 1024]);
    header
        .put(0, b"cxsparse")
        .put(16, &1536u64.to_be_bytes())
        .put(28, &5u32.to_be_bytes())
        .put(32, &u32::try_from(BLOCK).unwrap().to_be_bytes());
    let mut bytes = Pieces::default();
    bytes
        .put(0, &vhd_footer(3))
        .put(512, &with_checksum(header.0, 36));
    // A sector of bits is in front of each block.
    for (index, sector) in [24u32, u32::MAX, 4, 33, 14].into_iter().enumerate() {
        bytes.put(1536 + 4 * index, &sector.to_be_bytes());
    }
    let at = |sector: usize| Some((sector + 1) * 512);
    bytes.put_blocks([at(24), None, at(4), at(33), at(14)]);
    let end = bytes.0.len().next_multiple_of(512).max(43 * 512);
    bytes.put(end, &vhd_footer(3));
    bytes.0
}

fn dynamic_vdi() -> Vec<u8> {
    let mut bytes = Pieces(vec![0; 512]);
    bytes
        .put(0x40, &0xbeda_107fu32.to_le_bytes())
        .put(0x44, &0x0001_0001u32.to_le_bytes())
        .put(0x4c, &1u32.to_le_bytes())
        .put(0x154, &512u32.to_le_bytes())
        .put(0x158, &1024u32.to_le_bytes())
        .put(0x170, &(SIZE as u64).to_le_bytes())
        .put(0x178, &u32::try_from(BLOCK).unwrap().to_le_bytes())
        .put(0x180, &5u32.to_le_bytes());
    for (index, block) in [2u32, u32::MAX, 0, 3, 1].into_iter().enumerate() {
        bytes.put(512 + 4 * index, &block.to_le_bytes());
    }
    let at = |block: usize| Some(1024 + block * BLOCK);
    bytes.put_blocks([at(2), None, at(0), at(3), at(1)]);
    bytes.0
}

fn sparse_vmdk() -> Vec<u8> {
    let mut bytes = Pieces(vec![0; 512]);
    bytes
        .put(0, b"KDMV")
        .put(4, &1u32.to_le_bytes())
        .put(8, &5u32.to_le_bytes())
        .put(12, &(SIZE as u64 / 512).to_le_bytes())
        .put(20, &(BLOCK as u64 / 512).to_le_bytes())
        .put(28, &1u64.to_le_bytes())
        .put(36, &1u64.to_le_bytes())
        .put(44, &4u32.to_le_bytes())
        .put(56, &2u64.to_le_bytes())
        .put(512, b"# Disk DescriptorFile\nparentCID=ffffffff\n");
    // Two tables of four grains each; a grain that is marked as zeros.
    bytes
        .put(1024, &3u32.to_le_bytes())
        .put(1028, &4u32.to_le_bytes());
    for (index, sector) in [24u32, 1, 8, 32].into_iter().enumerate() {
        bytes.put(1536 + 4 * index, &sector.to_le_bytes());
    }
    bytes.put(2048, &16u32.to_le_bytes());
    let at = |sector: usize| Some(sector * 512);
    bytes.put_blocks([at(24), None, at(8), at(32), at(16)]);
    bytes.0
}

/// A qcow2 image of version 2 with clusters of 64 KiB, so that the disk has one, in which only the first 512 bytes are
/// its own.
fn qcow2() -> Vec<u8> {
    const CLUSTER: usize = 64 << 10;
    let mut bytes = Pieces(vec![0; 5 * CLUSTER]);
    let offset = |cluster: usize| ((cluster * CLUSTER) as u64 | 1 << 63).to_be_bytes();
    bytes
        .put(0, b"QFI\xfb")
        .put(4, &2u32.to_be_bytes())
        .put(20, &16u32.to_be_bytes())
        .put(24, &(SIZE as u64).to_be_bytes())
        .put(36, &1u32.to_be_bytes())
        .put(40, &(CLUSTER as u64).to_be_bytes())
        .put(48, &(3 * CLUSTER as u64).to_be_bytes())
        .put(56, &1u32.to_be_bytes())
        .put(CLUSTER, &offset(2))
        .put(2 * CLUSTER, &offset(4))
        .put(4 * CLUSTER, &contents());
    bytes.0
}

fn open_bytes(format: ImageFormat, bytes: &[u8]) -> Result<Box<dyn ReadDisk>, FormatError> {
    open(ImageFiles {
        file: file(bytes),
        format,
        referred: Vec::new(),
    })
}

fn samples() -> [(ImageFormat, Vec<u8>); 5] {
    [
        (ImageFormat::Vhd, fixed_vhd()),
        (ImageFormat::Vhd, dynamic_vhd()),
        (ImageFormat::Vdi, dynamic_vdi()),
        (ImageFormat::Vmdk, sparse_vmdk()),
        (ImageFormat::Qcow2, qcow2()),
    ]
}

#[test]
fn every_format_gives_what_is_in_it() {
    for (format, bytes) in samples() {
        let disk = open_bytes(format, &bytes).unwrap();
        assert_eq!(disk.size(), SIZE as u64, "{format:?}");
        let mut whole = vec![0xff; SIZE];
        disk.read_at(&mut whole, 0).unwrap();
        assert!(whole == contents(), "{format:?}");
        // Across the edges of blocks.
        let mut part = vec![0xff; BLOCK + 1024];
        disk.read_at(&mut part, BLOCK as u64 - 512).unwrap();
        assert!(part == contents()[BLOCK - 512..2 * BLOCK + 512], "{format:?}");
    }
}

#[test]
fn an_image_has_the_mark_of_its_format() {
    let noise = vec![0x55; 4096];
    for format in [ImageFormat::Vhd, ImageFormat::Vdi, ImageFormat::Qcow2] {
        assert!(open_bytes(format, &noise).is_err(), "{format:?}");
        assert!(open_bytes(format, &[]).is_err(), "{format:?}");
    }
    assert!(open_bytes(ImageFormat::Vmdk, &[]).is_err());
}

#[test]
fn an_image_that_is_cut_short_fails_where_it_ends() {
    let mut bytes = dynamic_vdi();
    bytes.truncate(1024 + 3 * BLOCK);
    let disk = open_bytes(ImageFormat::Vdi, &bytes).unwrap();
    let mut block = vec![0; BLOCK];
    disk.read_at(&mut block, 0).unwrap();
    let error = disk.read_at(&mut block, 3 * BLOCK as u64).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_would_take_too_much_memory_is_refused() {
    let mut bytes = dynamic_vdi();
    // 16 TiB in blocks of 4 KiB.
    bytes[0x170..0x178].copy_from_slice(&(16u64 << 40).to_le_bytes());
    bytes[0x180..0x184].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = open_bytes(ImageFormat::Vdi, &bytes).err().unwrap();
    assert!(error.to_string().contains("4194304 blocks"), "{error}");
    // Fewer blocks than that, and a file that has not so many entries.
    bytes[0x170..0x178].copy_from_slice(&(8u64 << 30).to_le_bytes());
    assert!(matches!(
        open_bytes(ImageFormat::Vdi, &bytes),
        Err(FormatError::Io(_))
    ));
}

#[test]
fn differences_to_another_image_are_refused() {
    let mut vhd = contents();
    vhd.extend(vhd_footer(4));
    let mut vdi = dynamic_vdi();
    vdi[0x1b8] = 1;
    let mut vmdk = sparse_vmdk();
    vmdk[512 + 32] = b'0';
    for (format, bytes) in [
        (ImageFormat::Vhd, vhd),
        (ImageFormat::Vdi, vdi),
        (ImageFormat::Vmdk, vmdk),
    ] {
        let error = open_bytes(format, &bytes).err().unwrap().to_string();
        assert!(error.contains("differences"), "{format:?}: {error}");
    }
}

#[test]
fn a_description_gets_the_extents_that_were_given() {
    let description =
        b"# Disk DescriptorFile\nversion=1\nRW 2 FLAT \"one.vmdk\" 1\nRW 1 ZERO\nRW 1 FLAT \"two.vmdk\" 0\n";
    let extent = |name: &str, bytes: &[u8]| Referred {
        name: name.to_owned(),
        file: file(bytes),
        format: ImageFormat::Raw,
    };
    let files = |referred| ImageFiles {
        file: file(description),
        format: ImageFormat::Vmdk,
        referred,
    };
    let one = [[9; 512], [1; 512], [2; 512]].concat();
    let disk = open(files(vec![
        extent("one.vmdk", &one),
        extent("two.vmdk", &[3; 512]),
    ]))
    .unwrap();
    let mut bytes = vec![0xff; 2048];
    assert_eq!(disk.size(), 2048);
    disk.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == [[1; 512], [2; 512], [0; 512], [3; 512]].concat());
    let error = open(files(vec![extent("one.vmdk", &one)])).err().unwrap();
    assert!(error.to_string().contains("not given"), "{error}");
}

#[test]
fn a_backing_image_shows_through() {
    let mut bytes = qcow2();
    // The cluster is not in the image.
    bytes[2 * (64 << 10)..2 * (64 << 10) + 8].fill(0);
    let disk = open(ImageFiles {
        file: file(&bytes),
        format: ImageFormat::Qcow2,
        referred: vec![Referred {
            name: "base".to_owned(),
            file: file(&contents()),
            format: ImageFormat::Raw,
        }],
    });
    let mut whole = vec![0xff; SIZE];
    disk.unwrap().read_at(&mut whole, 0).unwrap();
    assert!(whole == contents());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn no_image_is_too_bad(
        sample in 0..5usize,
        changes in prop::collection::vec((0..2200usize, any::<[u8; 4]>()), 1..4),
        small in any::<bool>(),
        at in 0..SIZE as u64,
        keeps_checksums in any::<bool>(),
    ) {
        let (format, mut bytes) = samples()[sample].clone();
        for (place, mut value) in changes {
            if small {
                value[1..].fill(0);
            }
            // Also in the tables of qcow2, and in what is at the end of VHD.
            let length = bytes.len();
            let place = match place {
                0..1600 => place,
                1600..1800 => length - 512 + (place - 1600),
                _ => (place - 1800) / 200 * (64 << 10) + (place - 1800) % 200,
            };
            if let Some(bytes) = bytes.get_mut(place..place + 4) {
                bytes.copy_from_slice(&value);
            }
        }
        if keeps_checksums && format == ImageFormat::Vhd {
            let end = bytes.len() - 512;
            let footer = with_checksum(bytes[end..].to_vec(), 64);
            bytes[end..].copy_from_slice(&footer);
            let header = with_checksum(bytes[512..1536].to_vec(), 36);
            bytes[512..1536].copy_from_slice(&header);
        }
        if let Ok(disk) = open_bytes(format, &bytes) {
            let length = disk.size().saturating_sub(at).min(BLOCK as u64 + 1);
            let mut buffer = vec![0; usize::try_from(length).unwrap()];
            let _ = disk.read_at(&mut buffer, at);
        }
    }
}

#[test]
fn a_sparse_file_is_read_at_its_far_end() {
    // An offset beyond 4 GiB, as large images have.
    let mut bytes = dynamic_vdi();
    bytes[512..516].copy_from_slice(&(2u32 << 20).to_le_bytes());
    let file = file(&bytes);
    file.write_all_at(&contents()[..BLOCK], 1024 + (2u64 << 20) * BLOCK as u64)
        .unwrap();
    let disk = vdi::open(file).unwrap();
    let mut block = vec![0xff; BLOCK];
    disk.read_at(&mut block, 0).unwrap();
    assert!(block == contents()[..BLOCK]);
}
