//! The start-up configuration of a microVM.
//!
//! The VMM is given open file descriptors, never paths: whoever starts it opens everything, leaves the
//! descriptors inheritable, and names them here by number. The JSON is read from the descriptor given by
//! `--config-fd` to its end.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// A descriptor that the VMM inherits, by number. The VMM takes ownership of it.
pub type InheritedFd = RawFd;

/// Everything the VMM needs to know before it starts the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// `/dev/kvm`, opened for reading and writing.
    pub kvm: InheritedFd,
    /// Number of virtual processors, 1 to [`VmConfig::MAX_VCPUS`].
    pub vcpus: u8,
    /// How many there can be after [`crate::control::Request::AddVcpus`], from `vcpus` to [`VmConfig::MAX_VCPUS`]; when it
    /// is missing, no more. The guest knows of all of them from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u8>,
    /// Size of the guest's memory in MiB, at least 16.
    pub memory_mib: u32,
    /// How much it can have after [`crate::control::Request::AddMemory`], at least `memory_mib`; when it is missing, no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mib: Option<u32>,
    /// How the host provides it.
    #[serde(default)]
    pub memory_backing: MemoryBacking,
    /// What the guest boots.
    pub kernel: KernelConfig,
    /// The virtio-vsock device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// The virtio-fs device. When it is present the VMM's working directory at start is the folder that is
    /// shared, and it becomes the VMM's root; else the working directory must be empty, and becomes the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemConfig>,
    /// The virtio-blk devices, in the order in which the guest names them (`vda`, `vdb`, …).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockConfig>,
    /// Whether the guest gets a virtio-rng device.
    #[serde(default)]
    pub rng: bool,
    /// Whether the guest gets a virtio-balloon device, by which it gives back memory that it has freed.
    #[serde(default)]
    pub page_reporting: bool,
    /// How many slots are kept free for devices that come while the guest runs: network devices, by the `attach_network`
    /// request, and one for memory, when [`crate::control::Request::AddMemory`] is there for the first time.
    #[serde(default)]
    pub network_slots: u8,
    /// How many disks the guest can get while it runs.
    #[serde(default)]
    pub disk_slots: u8,
    /// Where the guest's console output goes as it comes: for a person who looks for what goes wrong. A reader that
    /// stops reading stops the guest's processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<InheritedFd>,
    /// A listening Unix stream socket that takes the requests of [`crate::control`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<InheritedFd>,
    /// The write end of a pipe on which the VMM says how it ended: one [`crate::report::Report`] as JSON.
    /// End of file without a report means that the VMM was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<InheritedFd>,
}

impl VmConfig {
    /// The most virtual processors that a guest can have.
    pub const MAX_VCPUS: u8 = 64;
}

/// How the host provides the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryBacking {
    /// Whether transparent huge pages are asked for. They make faults rarer, and let a guest cost more than it touches.
    pub huge_pages: bool,
    /// Whether all of it is taken before the guest starts, so that no access has to wait for the host.
    pub prefault: bool,
}

impl Default for MemoryBacking {
    fn default() -> Self {
        MemoryBacking {
            huge_pages: true,
            prefault: false,
        }
    }
}

/// What the guest boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelConfig {
    /// An uncompressed ELF `vmlinux`.
    pub image: InheritedFd,
    /// The initial RAM file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<InheritedFd>,
    /// The kernel's command line; the VMM puts before it what describes its own devices.
    #[serde(default)]
    pub command_line: String,
}

/// The virtio-vsock device, backed by Unix sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context identifier, 3 or more.
    pub cid: u32,
    /// A listening Unix stream socket. A client that connects to it writes `CONNECT <port>\n`, is answered
    /// `OK <local port>\n` when the guest accepts, and then talks to the guest's listener on that port. A
    /// refused connection is closed without an answer.
    pub listener: InheritedFd,
    /// A connected Unix seqpacket socket. For each connection that the guest opens to the host (CID 2) the VMM
    /// sends one message on it: the port as four little-endian bytes, with one end of a fresh stream socket
    /// pair attached (`SCM_RIGHTS`). When the other side has closed it, or its buffer is full, the guest's
    /// connection is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<InheritedFd>,
}

/// The virtio-fs device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesystemConfig {
    /// The name by which the guest mounts it, 1 to 36 bytes.
    pub tag: String,
}

/// How the file of an image stores the disk's contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// As they are. The only one that can be written to, and the only one that block devices have.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// Virtual PC's format, fixed or dynamic.
    Vhd,
    /// VMware's format: one sparse file, or a description with flat extents.
    Vmdk,
    /// VirtualBox's format, dynamic or static.
    Vdi,
}

impl ImageFormat {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Qcow2, Self::Vhd, Self::Vmdk, Self::Vdi];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
        }
    }
}

/// A file that an image refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferredConfig {
    /// Its name, as the image says it.
    pub name: String,
    /// The file.
    pub file: InheritedFd,
    /// How it stores its contents.
    #[serde(default)]
    pub format: ImageFormat,
}

/// A virtio-blk device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// What the guest reads as the device's serial number, 1 to 20 bytes of ASCII; also its name in requests.
    pub id: String,
    /// The image or block device.
    pub image: InheritedFd,
    /// How the image stores its contents; a block device is raw.
    #[serde(default)]
    pub format: ImageFormat,
    /// The files that the image refers to. Of qcow2 the backing images: the first is the image's own, the second the
    /// first's, and so on. Of vmdk the extents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referred: Vec<ReferredConfig>,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}
