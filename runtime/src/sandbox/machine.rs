//! What a microVM is made of: the configuration file's choice, or the `vm` section's where `config.json` has one.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::PathBuf,
};

use bulkhead_vmm::launch::{Block, Image};

use super::{
    BootFileError, HostFile, HostFileError, ImageFileError, Size,
    boot_files::{check_initramfs, check_kernel, open_initramfs, open_kernel},
    host_files::open_allowed,
    image_files::open_image,
    plugged_disks::DISK_SLOTS,
    size::SizeError,
};
use crate::{
    config::Config,
    oci::{Bundle, Disk, Vm, VmmOptions},
};

/// What the guest's kernel is always told: talk on the serial port, and little. How it resets is the VMM's to say.
/// Then what makes our kernel lighter: no patching of lock prefixes if there is one CPU, no bounce buffers, which virtio
/// does not use, no comparison of time stamp counters when a CPU comes up, which KVM keeps in step or the guest does not
/// use, and no interface `dummy0`, which a pod did not ask for.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet loglevel=4 noreplace-smp swiotlb=noforce tsc=reliable dummy.numdummies=0";

/// Our initramfs is unpacked to a ramfs: its pages become the agent's there, without a copy.
const INITRAMFS_PARAMETERS: &str = "rootfstype=ramfs";

/// How the kernel mounts an image, which is the first disk, as the guest's root, and starts the agent in it.
const IMAGE_PARAMETERS: &str = "root=/dev/vda ro init=/init";

/// The name of the disk that has the guest's root.
const IMAGE_ID: &str = "root";

/// Why a microVM cannot be made as it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The VMM's binary cannot be opened.
    #[error("VMM {}: {source}; install it, or say in the configuration file where it is", path.display())]
    Binary {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel or the initramfs.
    #[error(transparent)]
    BootFile(#[from] BootFileError),
    /// A file that `config.json` names.
    #[error(transparent)]
    HostFile(#[from] HostFileError),
    /// What the guest's image refers to.
    #[error(transparent)]
    Image(#[from] ImageFileError),
    /// A block device that the guest is to have.
    #[error("{field}: {}: {source}", node.display())]
    Disk {
        /// The field of `config.json` that names it.
        field: String,
        /// Its node.
        node: PathBuf,
        /// Why it cannot be opened.
        source: io::Error,
    },
    /// The size.
    #[error(transparent)]
    Size(#[from] SizeError),
}

/// The parts of a microVM, all of them open.
pub struct Machine {
    /// How big it is.
    pub size: Size,
    /// How big it can become.
    pub max_size: Size,
    /// The VMM's binary.
    pub vmm: HostFile,
    /// How the VMM is to behave.
    pub options: VmmOptions,
    /// The guest's kernel.
    pub kernel: HostFile,
    /// The guest's initial RAM file system; without, it starts from the first disk.
    pub initramfs: Option<HostFile>,
    /// The kernel's command line.
    pub command_line: String,
    /// The disks, in the order in which the guest names them.
    pub disks: Vec<Block>,
    /// How many disks can come with containers that join.
    pub disk_slots: u8,
}

impl Machine {
    /// Opens what the container's microVM is made of.
    ///
    /// # Errors
    /// The first part that is not there, is something else, or may not be named by a `config.json`.
    pub fn open(config: &Config, bundle: &Bundle) -> Result<Self, MachineError> {
        let spec = &bundle.spec;
        let vm = spec.vm.as_ref();
        // What is no option has been refused with the document.
        let options = vm.map(|vm| VmmOptions::parse(&vm.hypervisor.parameters).unwrap_or_default());
        let image = match vm.filter(|vm| !vm.image.path.is_empty()) {
            Some(vm) => Some(open_root(config, vm)?),
            None => None,
        };
        let mut command_line = format!("{COMMAND_LINE} {}", config.kernel_parameters);
        let own_initramfs = vm.is_none_or(|vm| vm.kernel.initrd.is_empty());
        let root_parameters = match (&image, own_initramfs) {
            (Some(_), _) => Some(IMAGE_PARAMETERS),
            (None, true) => Some(INITRAMFS_PARAMETERS),
            (None, false) => None,
        };
        if let Some(parameter) = root_parameters {
            command_line.push(' ');
            command_line.push_str(parameter);
        }
        for parameter in vm.iter().flat_map(|vm| &vm.kernel.parameters) {
            command_line.push(' ');
            command_line.push_str(parameter);
        }
        let has_root = image.is_some();
        let root = image.map(|image| Block {
            id: IMAGE_ID.to_owned(),
            image,
            read_only: true,
        });
        let disks = root
            .map(Ok)
            .into_iter()
            .chain(bundle.disks.disks.iter().map(block));
        let size = Size::checked(config, spec)?;
        Ok(Self {
            size,
            max_size: size.most(config, spec),
            vmm: open_vmm(config, vm)?,
            options: options.unwrap_or_default(),
            kernel: match named(config, vm, "vm.kernel.path", |vm| &vm.kernel.path)? {
                Some(file) => check_kernel("vm.kernel.path", file)?,
                None => HostFile {
                    file: open_kernel(&config.kernel)?,
                    path: config.kernel.clone(),
                },
            },
            initramfs: match named(config, vm, "vm.kernel.initrd", |vm| &vm.kernel.initrd)? {
                Some(file) => Some(check_initramfs("vm.kernel.initrd", file)?),
                None if has_root => None,
                None => Some(HostFile {
                    file: open_initramfs(&config.initramfs)?,
                    path: config.initramfs.clone(),
                }),
            },
            command_line: command_line.trim_end().to_owned(),
            disks: disks.collect::<Result<_, _>>()?,
            disk_slots: if spec.is_pod() { DISK_SLOTS } else { 0 },
        })
    }

    /// Whether the guest may hold back what it has written to a disk, so that it cannot just be killed.
    pub fn has_writable_disk(&self) -> bool {
        self.disks.iter().any(|disk| !disk.read_only)
    }
}

/// Opens the file that a field of the `vm` section names, if it names one.
fn named(
    config: &Config,
    vm: Option<&Vm>,
    field: &'static str,
    path: impl Fn(&Vm) -> &String,
) -> Result<Option<HostFile>, HostFileError> {
    match vm.map(path).filter(|path| !path.is_empty()) {
        Some(path) => open_allowed(field, path.as_ref(), &config.vm_paths).map(Some),
        None => Ok(None),
    }
}

fn open_vmm(config: &Config, vm: Option<&Vm>) -> Result<HostFile, MachineError> {
    if let Some(file) = named(config, vm, "vm.hypervisor.path", |vm| &vm.hypervisor.path)? {
        return Ok(file);
    }
    let path = config.vmm.clone();
    match File::open(&path) {
        Ok(file) => Ok(HostFile { file, path }),
        Err(source) => Err(MachineError::Binary { path, source }),
    }
}

fn block(disk: &Disk) -> Result<Block, MachineError> {
    Ok(Block {
        id: disk.id.clone(),
        image: Image::raw(open_disk(disk)?.into()),
        read_only: disk.read_only,
    })
}

/// Opens a block device of the host for the guest to have as a disk.
///
/// # Errors
/// It is not there any more, or busy.
pub fn open_disk(disk: &Disk) -> Result<File, MachineError> {
    let unreadable = |source| MachineError::Disk {
        field: disk.field.clone(),
        node: disk.node.clone(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(!disk.read_only)
        .open(&disk.node)
        .map_err(unreadable)?;
    // The node may be another one by now.
    let status = file.metadata().map_err(unreadable)?;
    let number = (libc::major(status.rdev()), libc::minor(status.rdev()));
    if !status.file_type().is_block_device() || number != disk.number {
        return Err(unreadable(io::Error::other("another file has taken its place")));
    }
    Ok(file)
}

fn open_root(config: &Config, vm: &Vm) -> Result<Image, MachineError> {
    let file = open_allowed("vm.image.path", vm.image.path.as_ref(), &config.vm_paths)?;
    // A format that is none has been refused with the document.
    let format = vm.image.format().unwrap_or_default();
    Ok(open_image(file, format)?)
}
