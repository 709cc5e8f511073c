//! Reading a bundle: a folder with a `config.json`.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    BindSource, Disks, FieldError, GuestPaths, SharedMemory, Spec, Volume,
    devices::{check_devices, leave_out_devices_of_the_host},
    pod::check_pod,
    process::check_words,
    refuse_unsupported,
    spec::drop_nulls,
    texts::check_texts,
    validate::{resolve, validate},
    vm_annotations,
};

/// The longest `config.json` in bytes: it travels to the guest in one message, which can have 4 MiB.
const MAX_LENGTH: u64 = 3 << 20;

/// A bundle whose configuration has been found good.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The bundle's folder, absolute and free of symbolic links.
    pub folder: PathBuf,
    /// `config.json` as it was written, less its nulls and a privileged container's devices of the host.
    pub document: Value,
    /// What the host's side acts upon.
    pub spec: Spec,
    /// The root file system's folder on the host, absolute.
    pub rootfs: PathBuf,
    /// The host's side of each bind mount, in the order of `mounts`.
    pub binds: Vec<BindSource>,
    /// The bind mounts of which the guest has a copy.
    pub volumes: Vec<Volume>,
    /// The memory that it shares with other containers.
    pub shared_memory: Option<SharedMemory>,
    /// The block devices of the host that it is to have.
    pub disks: Disks,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The folder is not there.
    #[error("bundle {}: {source}", folder.display())]
    Folder {
        /// As the caller named it.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder's path is not text, and the container's state, which is JSON, has to name it.
    #[error("bundle {}: the path is not UTF-8; rename or move the folder", folder.display())]
    NotText {
        /// Free of symbolic links.
        folder: PathBuf,
    },
    /// The folder has no `config.json`.
    #[error("{}: no such file; a bundle is a folder with a config.json, which `bulkhead spec` can write", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too long.
    #[error("{}: longer than the {} MiB that a guest can be sent", file.display(), MAX_LENGTH >> 20)]
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// The file is not JSON.
    #[error("{}: not valid JSON: {source}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Says line and column.
        source: serde_json::Error,
    },
    /// A field is wrong, or asks for what cannot be done.
    #[error("{}: {source}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// Which field, and why.
        source: FieldError,
    },
}

impl Bundle {
    /// Reads and checks the bundle in `folder`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(folder: &Path) -> Result<Self, BundleError> {
        let folder = folder.canonicalize().map_err(|source| BundleError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
        if folder.to_str().is_none() {
            return Err(BundleError::NotText { folder });
        }
        let file = folder.join("config.json");
        let text = read(&file).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BundleError::Missing { file: file.clone() },
            _ => BundleError::Unreadable {
                file: file.clone(),
                source,
            },
        })?;
        if text.len() as u64 > MAX_LENGTH {
            return Err(BundleError::TooLong { file });
        }
        let document = parse(&text).map_err(|source| BundleError::Syntax {
            file: file.clone(),
            source,
        })?;
        Self::check(folder, document).map_err(|source| BundleError::Field { file, source })
    }

    fn check(folder: PathBuf, mut document: Value) -> Result<Self, FieldError> {
        let mut spec = Spec::view(&document)?;
        check_texts(&document)?;
        leave_out_devices_of_the_host(&mut spec, &mut document);
        vm_annotations::complete(&mut spec.vm, &spec.annotations)?;
        let (root, mut binds) = validate(&spec, &folder)?;
        refuse_unsupported(&document)?;
        check_words(&document["process"])?;
        check_devices(&spec.linux.devices)?;
        check_pod(&spec)?;
        let rootfs = resolve(&folder, &root.path);
        let shared_memory = SharedMemory::take(&mut binds, &spec.mounts);
        let disks = Disks::find(&spec, &folder)?;
        Ok(Self {
            folder,
            document,
            spec,
            rootfs,
            volumes: Volume::among(&binds),
            binds,
            shared_memory,
            disks,
        })
    }

    /// Where the guest has what is bind-mounted on the host's word: places in `mounts`, and paths in the guest.
    pub fn sources_in_guest(&self, paths: GuestPaths<'_>) -> Vec<(usize, String)> {
        let binds = self
            .binds
            .iter()
            .map(|bind| (bind.index, paths.mount_in_guest(bind.index)));
        let memory = self
            .shared_memory
            .iter()
            .map(|memory| (memory.index, memory.folder()));
        // They are among the bind mounts, too.
        let volumes = self
            .volumes
            .iter()
            .map(|volume| (volume.index, paths.volume_in_guest(volume.index)));
        binds.chain(memory).chain(volumes).collect()
    }
}

/// Reads a file, and one byte more than it may have if it has more. A named pipe that nobody writes to is not waited for.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let from = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)?;
    if !from.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    from.take(MAX_LENGTH + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Parses a document, and drops its nulls.
///
/// # Errors
/// Not JSON, or empty.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut document: Value = serde_json::from_slice(text)?;
    drop_nulls(&mut document);
    Ok(document)
}
