//! What a microVM is made of: the configuration with its descriptors taken over and its numbers checked.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::config::{BlockConfig, ImageFormat, MemoryBacking, VmConfig, VsockConfig};
use crate::inherited::{Inherited, InheritedError};
use crate::memory;

/// The configuration asks for what cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// A descriptor.
    #[error(transparent)]
    Descriptor(#[from] InheritedError),
    /// A number out of its range.
    #[error("`{field}` is {value}; it must be {expected}")]
    OutOfRange {
        /// Its place in the configuration.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What it may say.
        expected: String,
    },
    /// A text of a length or with characters that the guest cannot be told.
    #[error("`{field}` is {value:?}; it must have {expected}")]
    Text {
        /// Its place in the configuration.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
    /// Two block devices have the same name.
    #[error("two block devices have the id {0:?}")]
    SameId(String),
}

/// A microVM's parts before it is built.
pub struct Resources {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// Number of virtual processors.
    pub vcpus: u8,
    /// How many there can be.
    pub max_vcpus: u8,
    /// Size of the guest's memory in MiB.
    pub memory_mib: u32,
    /// How much it can have, in MiB.
    pub max_memory_mib: u32,
    /// How the host provides it.
    pub memory_backing: MemoryBacking,
    /// An ELF file.
    pub kernel: File,
    /// An initial RAM file system.
    pub initramfs: Option<File>,
    /// The kernel's parameters that the caller chose.
    pub command_line: String,
    /// What its virtio devices are made of.
    pub devices: Devices,
    /// Where a copy of the console's output goes.
    pub console: Option<File>,
    /// The listening control socket.
    pub control: Option<OwnedFd>,
}

/// What the virtio devices are made of.
pub struct Devices {
    /// The sockets of the vsock device.
    pub vsock: Option<Vsock>,
    /// The tag of the file system that is shared.
    pub filesystem: Option<String>,
    /// The block devices.
    pub blocks: Vec<Block>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// Whether there is a balloon device, by which the guest gives back free pages.
    pub page_reporting: bool,
    /// How many slots are kept free for network devices.
    pub network_slots: u8,
    /// How many slots are kept free for disks.
    pub disk_slots: u8,
}

/// The vsock device's.
pub struct Vsock {
    /// The guest's context identifier.
    pub cid: u32,
    /// The socket on which the host's programs connect.
    pub listener: OwnedFd,
    /// The socket to which the guest's connections are handed.
    pub uplink: Option<OwnedFd>,
}

/// A block device's.
pub struct Block {
    /// Its name.
    pub id: String,
    /// Its contents.
    pub image: ImageFiles,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// The files of an image.
pub struct ImageFiles {
    /// The image itself.
    pub file: File,
    /// How it stores its contents.
    pub format: ImageFormat,
    /// What it refers to.
    pub referred: Vec<Referred>,
}

/// A file that an image refers to.
pub struct Referred {
    /// Its name, as the image says it.
    pub name: String,
    /// The file.
    pub file: File,
    /// How it stores its contents.
    pub format: ImageFormat,
}

impl From<File> for ImageFiles {
    /// A raw image.
    fn from(file: File) -> Self {
        ImageFiles {
            file,
            format: ImageFormat::Raw,
            referred: Vec::new(),
        }
    }
}

impl Resources {
    /// Checks the configuration and takes over its descriptors, but for the report's.
    pub fn take(config: VmConfig, inherited: &mut Inherited) -> Result<Self, ConfigurationError> {
        check_range("vcpus", config.vcpus.into(), 1, VmConfig::MAX_VCPUS.into())?;
        let max_vcpus = config.max_vcpus.unwrap_or(config.vcpus);
        check_range(
            "max_vcpus",
            max_vcpus.into(),
            config.vcpus.into(),
            VmConfig::MAX_VCPUS.into(),
        )?;
        check_range(
            "memory_mib",
            config.memory_mib.into(),
            memory::MINIMUM_MIB.into(),
            u32::MAX.into(),
        )?;
        let max_memory_mib = config.max_memory_mib.unwrap_or(config.memory_mib);
        check_range(
            "max_memory_mib",
            max_memory_mib.into(),
            config.memory_mib.into(),
            u32::MAX.into(),
        )?;
        if let Some(filesystem) = &config.filesystem {
            check_text(
                "filesystem.tag",
                &filesystem.tag,
                36,
                "1 to 36 bytes without NUL",
                |byte| byte != 0,
            )?;
        }
        let mut blocks: Vec<Block> = Vec::with_capacity(config.blocks.len());
        for block in config.blocks {
            if blocks.iter().any(|other| other.id == block.id) {
                return Err(ConfigurationError::SameId(block.id));
            }
            blocks.push(Block::take(block, inherited)?);
        }
        Ok(Resources {
            kvm: inherited.take("kvm", config.kvm)?,
            vcpus: config.vcpus,
            max_vcpus,
            memory_mib: config.memory_mib,
            max_memory_mib,
            memory_backing: config.memory_backing,
            kernel: inherited.take("kernel.image", config.kernel.image)?.into(),
            initramfs: inherited
                .take_optional("kernel.initramfs", config.kernel.initramfs)?
                .map(File::from),
            command_line: config.kernel.command_line,
            devices: Devices {
                vsock: config
                    .vsock
                    .map(|vsock| Vsock::take(&vsock, inherited))
                    .transpose()?,
                filesystem: config.filesystem.map(|filesystem| filesystem.tag),
                blocks,
                rng: config.rng,
                page_reporting: config.page_reporting,
                network_slots: config.network_slots,
                disk_slots: config.disk_slots,
            },
            console: inherited
                .take_optional("console", config.console)?
                .map(File::from),
            control: inherited.take_optional("control", config.control)?,
        })
    }
}

impl Vsock {
    fn take(config: &VsockConfig, inherited: &mut Inherited) -> Result<Self, ConfigurationError> {
        // 0 to 2 are the hypervisor, the local host and the host; the last is "any".
        check_range("vsock.cid", config.cid.into(), 3, (u32::MAX - 1).into())?;
        Ok(Vsock {
            cid: config.cid,
            listener: inherited.take("vsock.listener", config.listener)?,
            uplink: inherited.take_optional("vsock.uplink", config.uplink)?,
        })
    }
}

impl Block {
    fn take(config: BlockConfig, inherited: &mut Inherited) -> Result<Self, ConfigurationError> {
        check_disk_id(&config.id)?;
        let file = inherited.take("blocks.image", config.image)?;
        let referred = config
            .referred
            .into_iter()
            .map(|referred| {
                Ok(Referred {
                    name: referred.name,
                    file: inherited.take("blocks.referred.file", referred.file)?.into(),
                    format: referred.format,
                })
            })
            .collect::<Result<_, InheritedError>>()?;
        Ok(Block {
            id: config.id,
            image: ImageFiles {
                file: file.into(),
                format: config.format,
                referred,
            },
            read_only: config.read_only,
        })
    }
}

/// Checks the name of a disk.
///
/// # Errors
/// It is none that a driver could read.
pub fn check_disk_id(id: &str) -> Result<(), ConfigurationError> {
    let printable = |byte: u8| byte.is_ascii_graphic();
    check_text(
        "blocks.id",
        id,
        20,
        "1 to 20 printable ASCII characters",
        printable,
    )
}

fn check_range(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigurationError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let expected = format!("{least} to {most}");
    Err(ConfigurationError::OutOfRange {
        field,
        value,
        expected,
    })
}

fn check_text(
    field: &'static str,
    value: &str,
    longest: usize,
    expected: &'static str,
    is_good: impl Fn(u8) -> bool,
) -> Result<(), ConfigurationError> {
    if (1..=longest).contains(&value.len()) && value.bytes().all(is_good) {
        return Ok(());
    }
    Err(ConfigurationError::Text {
        field,
        value: value.to_owned(),
        expected,
    })
}
