//! The files of a guest's image: itself, and what it refers to.
//!
//! An image is hostile, and is read by the VMM in its jail. All that is read of it here is which other files it names,
//! since the VMM can open none: of qcow2 the backing image, of vmdk the extents.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bulkhead_vmm::{
    config::ImageFormat,
    launch::{Image, Referred},
};

use super::{HostFile, host_files::open_inside};

/// The most files that an image may refer to, directly or not.
const MOST_REFERRED: usize = 16;

/// How much of an image is read to find names, in bytes: both formats have them at the start.
const HEAD: usize = 64 << 10;

const QCOW2_MARK: &[u8] = b"QFI\xfb";
/// The type of the header extension that has the backing image's format.
const QCOW2_BACKING_FORMAT: u32 = 0xe279_2aca;
/// The bit of the incompatible features that says that the data are in another file.
const QCOW2_DATA_FILE: u64 = 1 << 2;
const VMDK_SPARSE_MARK: &[u8] = b"KDMV";

/// Why an image's files cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ImageFileError {
    /// It cannot be read.
    #[error("vm.image.path: {}: {source}", image.display())]
    Unreadable {
        /// The image.
        image: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not of its format, or refers to other files in a way that is not supported.
    #[error("vm.image.path: {}: {problem}", image.display())]
    Unfit {
        /// The image.
        image: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file that it refers to cannot be opened.
    #[error("vm.image.path: {} refers to {name:?}: {source}; such a file has to be in the image's folder", image.display())]
    Referred {
        /// The image.
        image: PathBuf,
        /// The other file, as the image names it.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A file that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    name: String,
    format: ImageFormat,
}

/// Opens what an image refers to.
///
/// # Errors
/// It refers to what is not in its own folder, or to too much, or cannot be read.
pub fn open_image(image: HostFile, format: ImageFormat) -> Result<Image, ImageFileError> {
    let folder = image.path.parent().unwrap_or(Path::new("/"));
    let unfit = |problem: String| ImageFileError::Unfit {
        image: image.path.clone(),
        problem,
    };
    let head_of = |file: &File| {
        head(file).map_err(|source| ImageFileError::Unreadable {
            image: image.path.clone(),
            source,
        })
    };
    let mut referred: Vec<Referred> = Vec::new();
    let mut next = references(format, &head_of(&image.file)?).map_err(unfit)?;
    while !next.is_empty() {
        if referred.len() + next.len() > MOST_REFERRED {
            return Err(unfit(format!("refers to more than {MOST_REFERRED} files")));
        }
        for Reference { name, format } in std::mem::take(&mut next) {
            let file = open_inside(folder, &name).map_err(|source| ImageFileError::Referred {
                image: image.path.clone(),
                name: name.clone(),
                source,
            })?;
            // Of backing images there is one at a time; extents refer to nothing.
            if format != ImageFormat::Raw {
                next = references(format, &head_of(&file)?).map_err(unfit)?;
            }
            referred.push(Referred {
                name,
                file: file.into(),
                format,
            });
        }
    }
    Ok(Image {
        file: image.file.into(),
        format,
        referred,
    })
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let mut length = 0;
    while let Some(rest) = head.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(length);
    Ok(head)
}

/// The files that an image names, which begins with `head`.
fn references(format: ImageFormat, head: &[u8]) -> Result<Vec<Reference>, String> {
    match format {
        ImageFormat::Raw | ImageFormat::Vhd | ImageFormat::Vdi => Ok(Vec::new()),
        ImageFormat::Qcow2 => Ok(qcow2_backing(head)?.into_iter().collect()),
        ImageFormat::Vmdk if head.starts_with(VMDK_SPARSE_MARK) => Ok(Vec::new()),
        ImageFormat::Vmdk => vmdk_extents(head),
    }
}

/// The backing image of a qcow2 image.
fn qcow2_backing(head: &[u8]) -> Result<Option<Reference>, String> {
    let damaged = || "it is not a qcow2 image, or damaged".to_owned();
    if !head.starts_with(QCOW2_MARK) {
        return Err(damaged());
    }
    let version = be32(head, 4).ok_or_else(damaged)?;
    let (features, mut extension) = match version {
        2 => (0, 72),
        3 => (
            be64(head, 72).ok_or_else(damaged)?,
            be32(head, 100).ok_or_else(damaged)? as usize,
        ),
        _ => return Err(format!("version {version} of qcow2 cannot be read")),
    };
    if features & QCOW2_DATA_FILE != 0 {
        return Err("its data are in another file, which is not supported".to_owned());
    }
    let name_at = usize::try_from(be64(head, 8).ok_or_else(damaged)?).map_err(|_| damaged())?;
    if name_at == 0 {
        return Ok(None);
    }
    let name = text(head, name_at, be32(head, 16)).ok_or_else(damaged)?;
    let mut format = None;
    while extension < name_at {
        let kind = be32(head, extension).ok_or_else(damaged)?;
        let length = be32(head, extension + 4);
        match kind {
            0 => break,
            QCOW2_BACKING_FORMAT => format = text(head, extension + 8, length),
            _ => {}
        }
        let length = (length.ok_or_else(damaged)? as usize).next_multiple_of(8);
        extension = length.checked_add(extension + 8).ok_or_else(damaged)?;
    }
    let format = match format.as_deref() {
        Some("raw") => ImageFormat::Raw,
        Some("qcow2") => ImageFormat::Qcow2,
        // To guess would let whoever writes to a raw image make it another.
        None => {
            return Err(format!(
                "it does not say of which format {name:?} is; `qemu-img rebase -u -F` does"
            ));
        }
        Some(other) => {
            return Err(format!(
                "it is based on {name:?} of the format {other:?}, not raw or qcow2"
            ));
        }
    };
    Ok(Some(Reference { name, format }))
}

/// The extents in the description of a VMDK image.
fn vmdk_extents(head: &[u8]) -> Result<Vec<Reference>, String> {
    if head.len() == HEAD {
        return Err("its description is too long, or it is not a vmdk image".to_owned());
    }
    let description = std::str::from_utf8(head).map_err(|_| "it is not a vmdk image".to_owned())?;
    let mut extents: Vec<Reference> = Vec::new();
    for line in description.lines() {
        let mut words = line.split_whitespace();
        if !matches!(words.next(), Some("RW" | "RDONLY")) {
            continue;
        }
        match words.nth(1) {
            Some("ZERO") => {}
            Some("FLAT") => {
                let name = line.split('"').nth(1).ok_or("an extent has no name")?;
                if !extents.iter().any(|extent| extent.name == name) {
                    extents.push(Reference {
                        name: name.to_owned(),
                        format: ImageFormat::Raw,
                    });
                }
            }
            kind => {
                let kind = kind.unwrap_or_default();
                return Err(format!(
                    "it has an extent of the kind {kind:?}, which cannot be read"
                ));
            }
        }
    }
    Ok(extents)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn text(bytes: &[u8], at: usize, length: Option<u32>) -> Option<String> {
    let end = at.checked_add(usize::try_from(length?).ok()?)?;
    String::from_utf8(bytes.get(at..end)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::{ProptestConfig, any, proptest};

    use super::*;

    /// The head of a qcow2 image of version 3 that is based on `name`, whose format it says.
    fn qcow2(name: &str, format: Option<&str>) -> Vec<u8> {
        let mut head = vec![0; 104];
        head[..4].copy_from_slice(QCOW2_MARK);
        head[4..8].copy_from_slice(&3u32.to_be_bytes());
        head[100..104].copy_from_slice(&104u32.to_be_bytes());
        let mut extend = |kind: u32, contents: &[u8]| {
            head.extend(kind.to_be_bytes());
            head.extend(u32::try_from(contents.len()).expect("short").to_be_bytes());
            head.extend(contents);
            head.resize(head.len().next_multiple_of(8), 0);
        };
        extend(0x6803_f857, &[7; 50]);
        if let Some(format) = format {
            extend(QCOW2_BACKING_FORMAT, format.as_bytes());
        }
        extend(0, &[]);
        let at = head.len() as u64;
        head[8..16].copy_from_slice(&at.to_be_bytes());
        head[16..20].copy_from_slice(&u32::try_from(name.len()).expect("short").to_be_bytes());
        head.extend(name.as_bytes());
        head
    }

    fn open(folder: &Path, name: &str, format: ImageFormat) -> Result<Image, String> {
        let path = folder.join(name);
        let file = File::open(&path).expect("it was made");
        open_image(HostFile { file, path }, format).map_err(|error| error.to_string())
    }

    #[test]
    fn a_chain_of_backing_images_is_opened_in_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, head: Vec<u8>| fs::write(folder.path().join(name), head).expect("writable");
        write("top", qcow2("middle", Some("qcow2")));
        write("middle", qcow2("bottom", Some("raw")));
        write("bottom", qcow2("not-looked-at", None));
        let image = open(folder.path(), "top", ImageFormat::Qcow2).expect("whole");
        let found: Vec<_> = image
            .referred
            .iter()
            .map(|file| (file.name.as_str(), file.format))
            .collect();
        assert_eq!(
            found,
            [("middle", ImageFormat::Qcow2), ("bottom", ImageFormat::Raw)]
        );
    }

    #[test]
    fn a_backing_image_elsewhere_or_of_no_format_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refused = |head: Vec<u8>, words: &str| {
            fs::write(folder.path().join("top"), head).expect("writable");
            let error = open(folder.path(), "top", ImageFormat::Qcow2).err().expect(words);
            assert!(error.contains(words), "{error}");
        };
        refused(
            qcow2("/etc/passwd", Some("raw")),
            "has to be in the image's folder",
        );
        refused(qcow2("../passwd", Some("raw")), "has to be in the image's folder");
        refused(qcow2("none", Some("raw")), "No such file");
        refused(qcow2("top", None), "of which format");
        refused(qcow2("top", Some("vmdk")), "\"vmdk\"");
        refused(qcow2("top", Some("qcow2")), "more than 16 files");
        refused(b"QFI".to_vec(), "not a qcow2 image");
        let mut data_file = qcow2("top", Some("raw"));
        data_file[79] = 4;
        refused(data_file, "in another file");
    }

    #[test]
    fn extents_are_found_in_a_description() {
        let text = "# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"one two.vmdk\" 0\nRDONLY 8 ZERO\nRW 8 FLAT \"b\" 8\n";
        let names: Vec<_> = references(ImageFormat::Vmdk, text.as_bytes())
            .expect("whole")
            .into_iter()
            .map(|extent| extent.name)
            .collect();
        assert_eq!(names, ["one two.vmdk", "b"]);
        references(ImageFormat::Vmdk, b"RW 8 SPARSE \"a\"\n").expect_err("not read");
        assert_eq!(references(ImageFormat::Vmdk, b"KDMV\0\xff"), Ok(Vec::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_head_is_too_bad(bytes: Vec<u8>, at in 0..200usize, value: [u8; 4], whole in any::<bool>()) {
            let mut head = if whole { qcow2("name", Some("raw")) } else { bytes };
            if let Some(place) = head.get_mut(at..at + 4) {
                place.copy_from_slice(&value);
            }
            for format in ImageFormat::ALL {
                let _ = references(format, &head);
            }
            if !head.starts_with(QCOW2_MARK) {
                head.splice(0..0, QCOW2_MARK.iter().copied());
                let _ = references(ImageFormat::Qcow2, &head);
            }
        }
    }
}
