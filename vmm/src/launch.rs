//! Starting a VMM: for the host's programs, which are the only ones that do.

mod child;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{mem, ptr};

use self::child::Child;

use crate::config::{
    BlockConfig, FilesystemConfig, ImageFormat, InheritedFd, KernelConfig, MemoryBacking, ReferredConfig,
    VmConfig, VsockConfig,
};
use crate::report::Report;

/// The number of the VMM's first inherited descriptor, which is its configuration; the others follow.
const CONFIGURATION: RawFd = 3;

/// A microVM to be started. All descriptors are opened by the caller; the VMM opens nothing.
pub struct Launch<'a> {
    /// The `bulkhead-vmm` binary, opened for reading.
    pub binary: &'a File,
    /// The VMM's working directory, which becomes its root: the folder that is shared, or an empty one.
    pub directory: BorrowedFd<'a>,
    /// The directory of the control group in which the VMM starts; absent: the caller's.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Where its standard error goes; standard input and output are `/dev/null`'s.
    pub stderr: BorrowedFd<'a>,
    /// `/dev/kvm`, opened for reading and writing.
    pub kvm: OwnedFd,
    /// Number of virtual processors.
    pub vcpus: u8,
    /// How many there can be; when it is missing, no more.
    pub max_vcpus: Option<u8>,
    /// Size of the guest's memory in MiB.
    pub memory_mib: u32,
    /// How much it can have, in MiB; when it is missing, no more.
    pub max_memory_mib: Option<u32>,
    /// How the host provides it.
    pub memory_backing: MemoryBacking,
    /// An uncompressed ELF `vmlinux`.
    pub kernel: OwnedFd,
    /// The initial RAM file system.
    pub initramfs: Option<OwnedFd>,
    /// The kernel's command line.
    pub command_line: String,
    /// The virtio-vsock device.
    pub vsock: Option<Vsock>,
    /// The tag of the virtio-fs device.
    pub filesystem: Option<String>,
    /// The virtio-blk devices.
    pub blocks: Vec<Block>,
    /// Whether the guest gets a virtio-rng device.
    pub rng: bool,
    /// Whether the guest gives back memory that it has freed, by a virtio-balloon device.
    pub page_reporting: bool,
    /// How many network devices it can get while it runs.
    pub network_slots: u8,
    /// How many disks it can get while it runs.
    pub disk_slots: u8,
    /// Where the guest's console output goes as it comes.
    pub console: Option<OwnedFd>,
    /// The listening control socket.
    pub control: Option<OwnedFd>,
}

/// The virtio-vsock device: see [`VsockConfig`].
pub struct Vsock {
    /// The guest's context identifier.
    pub cid: u32,
    /// A listening Unix stream socket.
    pub listener: OwnedFd,
    /// A connected Unix seqpacket socket.
    pub uplink: Option<OwnedFd>,
}

/// A virtio-blk device: see [`BlockConfig`].
pub struct Block {
    /// Its name.
    pub id: String,
    /// The image.
    pub image: Image,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// An image: see [`BlockConfig`].
pub struct Image {
    /// The file or block device.
    pub file: OwnedFd,
    /// How it stores its contents.
    pub format: ImageFormat,
    /// The files that it refers to.
    pub referred: Vec<Referred>,
}

/// A file that an image refers to: see [`ReferredConfig`].
pub struct Referred {
    /// Its name, as the image says it.
    pub name: String,
    /// The file.
    pub file: OwnedFd,
    /// How it stores its contents.
    pub format: ImageFormat,
}

impl Image {
    /// A raw image.
    pub fn raw(file: OwnedFd) -> Self {
        Self {
            file,
            format: ImageFormat::Raw,
            referred: Vec::new(),
        }
    }
}

impl Block {
    fn into_config(self, passed: &mut Passed) -> BlockConfig {
        let Image {
            file,
            format,
            referred,
        } = self.image;
        let referred = referred.into_iter().map(|referred| ReferredConfig {
            name: referred.name,
            file: passed.pass(referred.file),
            format: referred.format,
        });
        BlockConfig {
            id: self.id,
            referred: referred.collect(),
            image: passed.pass(file),
            format,
            read_only: self.read_only,
        }
    }
}

/// A VMM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A pipe or a file in memory could not be made.
    #[error("cannot prepare to start the VMM")]
    Prepare(#[source] io::Error),
    /// The process could not be made.
    #[error("cannot start the VMM's process in its control group")]
    Clone(#[source] io::Error),
    /// The process could not become the VMM.
    #[error("the VMM's process cannot {0}")]
    Become(&'static str, #[source] io::Error),
}

impl Launch<'_> {
    /// Starts the VMM in a process namespace of its own and returns when the process has become the VMM. The guest may
    /// still fail to start: the report says so.
    ///
    /// The VMM dies with the calling *thread*; call this on one that lives as long as the microVM should.
    pub fn start(self) -> Result<Vmm, LaunchError> {
        let (report, report_end) = io::pipe().map_err(LaunchError::Prepare)?;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(LaunchError::Prepare)?;
        let standard = [null.as_raw_fd(), null.as_raw_fd(), self.stderr.as_raw_fd()];
        let (binary, directory, cgroup) = (self.binary, self.directory, self.cgroup);
        let mut passed = Passed::default();
        let config = self.into_config(report_end.into(), &mut passed);
        let config = in_memory_file(&config).map_err(LaunchError::Prepare)?;

        let mut sources = standard.to_vec();
        sources.push(config.as_raw_fd());
        sources.extend(passed.0.iter().map(AsRawFd::as_raw_fd));
        let child = Child::new(binary, directory, sources).map_err(LaunchError::Prepare)?;
        let (pid, pidfd) = child.start(cgroup)?;
        Ok(Vmm {
            pid,
            pidfd,
            report: OwnedFd::from(report).into(),
        })
    }

    fn into_config(self, report: OwnedFd, passed: &mut Passed) -> VmConfig {
        VmConfig {
            kvm: passed.pass(self.kvm),
            vcpus: self.vcpus,
            max_vcpus: self.max_vcpus,
            memory_mib: self.memory_mib,
            max_memory_mib: self.max_memory_mib,
            memory_backing: self.memory_backing,
            kernel: KernelConfig {
                image: passed.pass(self.kernel),
                initramfs: passed.pass_optional(self.initramfs),
                command_line: self.command_line,
            },
            vsock: self.vsock.map(|vsock| VsockConfig {
                cid: vsock.cid,
                listener: passed.pass(vsock.listener),
                uplink: passed.pass_optional(vsock.uplink),
            }),
            filesystem: self.filesystem.map(|tag| FilesystemConfig { tag }),
            blocks: self
                .blocks
                .into_iter()
                .map(|block| block.into_config(passed))
                .collect(),
            rng: self.rng,
            page_reporting: self.page_reporting,
            network_slots: self.network_slots,
            disk_slots: self.disk_slots,
            console: passed.pass_optional(self.console),
            control: passed.pass_optional(self.control),
            report: Some(passed.pass(report)),
        }
    }
}

/// The descriptors that the VMM inherits behind its configuration.
#[derive(Default)]
struct Passed(Vec<OwnedFd>);

impl Passed {
    /// The number that `fd` will have in the VMM.
    fn pass(&mut self, fd: OwnedFd) -> InheritedFd {
        self.0.push(fd);
        let behind = RawFd::try_from(self.0.len()).expect("fewer descriptors than a process can have");
        CONFIGURATION + behind
    }

    fn pass_optional(&mut self, fd: Option<OwnedFd>) -> Option<InheritedFd> {
        fd.map(|fd| self.pass(fd))
    }
}

/// A file that exists in memory only and holds the configuration.
fn in_memory_file(config: &VmConfig) -> io::Result<File> {
    // SAFETY: a valid name.
    let fd = unsafe { libc::memfd_create(c"bulkhead-vmm configuration".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&serde_json::to_vec(config)?)?;
    file.rewind()?;
    Ok(file)
}

/// A running VMM.
pub struct Vmm {
    /// Its process, seen from the caller.
    pub pid: libc::pid_t,
    /// Its process; readable when it has ended.
    pub pidfd: OwnedFd,
    report: File,
}

impl Vmm {
    /// The pipe of its report: readable when there is one, or when it has ended without.
    pub fn report(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// Kills it. It is no error if it has ended.
    pub fn kill(&self) {
        let nothing = ptr::null::<libc::siginfo_t>();
        // SAFETY: no pointer is followed. It can only fail because the process has ended.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                nothing,
                0,
            );
        }
    }

    /// Waits until it has ended and removes it from the process table. Once; the caller may do the same by [`Vmm::pid`].
    pub fn reap(&self) -> io::Result<()> {
        // SAFETY: all bytes zero are a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let id = self.pidfd.as_raw_fd().cast_unsigned();
        loop {
            // SAFETY: `info` is valid for writing.
            if unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Waits for the report. `None` when the VMM ended without one: it was killed.
    pub fn read_report(&mut self) -> io::Result<Option<Report>> {
        let mut json = Vec::new();
        self.report.read_to_end(&mut json)?;
        if json.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&json)?))
    }
}
