//! Starting what is measured.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulkhead_vmm::config::{BlockConfig, ImageFormat, KernelConfig, MemoryBacking, VmConfig, VsockConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, VsockAddr, bind, listen, recv, socket, socketpair,
};

use super::task::Task;
use crate::bench::plan::{Start, VMM};
use crate::testbed::process::Process;

/// The vsock port that the agent dials on the host (`AGENT_PORT` of the agent's protocol).
const AGENT_PORT: u32 = 1024;

/// What is waited for no longer, since whoever would bring it has been killed: in virtual time, which passes at once when nobody
/// runs.
const LIMIT: Duration = Duration::from_secs(60);

/// The VMM's working folder: empty, it becomes its root.
const EMPTY: &str = "/run/empty";

/// What was started, and how to hear from it.
pub struct Launched {
    /// The process; with a task, there is none any more that was started here.
    pub process: Option<Process>,
    /// Its standard output, or its guest's console, or its shim's log.
    output: File,
    /// What of that has been read and not been waited for.
    printed: Vec<u8>,
    dial: Dial,
}

/// What goes on while something else is measured.
pub struct InBackground {
    _process: Option<Process>,
    /// It may still print.
    _output: File,
}

enum Dial {
    /// Nobody is expected to.
    None,
    /// The host kernel's vsock.
    Listener(OwnedFd),
    /// bulkhead-vmm's uplink.
    Uplink(OwnedFd),
}

impl Launched {
    /// Waits until the agent in the guest dials the host.
    pub fn wait_for_agent(&mut self) -> io::Result<()> {
        let (Dial::Listener(dial) | Dial::Uplink(dial)) = &self.dial else {
            return Err(io::Error::other("a task has no agent of its own"));
        };
        wait_until_readable(dial).map_err(|error| self.blame(&error))?;
        match &self.dial {
            Dial::Uplink(uplink) if recv(uplink.as_raw_fd(), &mut [0; 4], MsgFlags::empty())? == 0 => {
                Err(io::Error::other("the VMM ended before the agent dialled"))
            }
            _ => Ok(()),
        }
    }

    /// Leaves it to itself, and where agents dial to the next one.
    pub fn into_background(self) -> InBackground {
        InBackground {
            _process: self.process,
            _output: self.output,
        }
    }

    /// Adds to an error what was printed, for a reader who wonders why.
    fn blame(&self, error: &io::Error) -> io::Error {
        let mut printed = self.printed.clone();
        let mut buffer = [0; 4096];
        if let Ok(true) = poll_input(&self.output, Duration::ZERO) {
            let length = (&self.output).read(&mut buffer).unwrap_or(0);
            printed.extend_from_slice(&buffer[..length]);
        }
        let message = format!("{error}, but: {}", String::from_utf8_lossy(&printed));
        io::Error::new(error.kind(), message)
    }

    /// Waits until it has printed `text`.
    pub fn wait_for_text(&mut self, text: &str) -> io::Result<()> {
        loop {
            let found = self
                .printed
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            if let Some(at) = found {
                self.printed.drain(..at + text.len());
                return Ok(());
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        wait_until_readable(&self.output).map_err(|error| self.blame(&error))?;
        let mut buffer = [0; 4096];
        let length = self.output.read(&mut buffer)?;
        if length == 0 {
            return Err(self.blame(&io::Error::other("it ended too early")));
        }
        self.printed.extend_from_slice(&buffer[..length]);
        Ok(())
    }

    /// Waits until it has said, as [`Until::TookPrinted`](crate::bench::plan::Until::TookPrinted) has it, how long it took.
    pub fn wait_for_duration(&mut self) -> io::Result<Duration> {
        self.wait_for_text("took ")?;
        while !self.printed.contains(&b'\n') {
            self.read_more()?;
        }
        let line: Vec<u8> = self.printed.drain(..).take_while(|byte| *byte != b'\n').collect();
        u64::from_str_radix(String::from_utf8_lossy(&line).trim(), 16)
            .map(Duration::from_nanos)
            .map_err(io::Error::other)
    }
}

/// What has to be there before the clock starts.
pub struct Prepared {
    what: What,
    inherited: Vec<OwnedFd>,
    output: File,
    dial: Dial,
}

enum What {
    Process(Command),
    Task(Box<Task>),
}

impl Prepared {
    /// Gets ready to start it.
    pub fn new(start: &Start) -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let run = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (reader, writer) = io::pipe()?;
        let output = File::from(OwnedFd::from(reader));
        let errors = File::options().create(true).append(true).open("/run/stderr")?;
        match start {
            Start::Task { shim, bundle, config } => Ok(Self {
                what: What::Task(Box::new(Task::new(shim, bundle, config.as_deref(), run)?)),
                inherited: Vec::new(),
                output,
                dial: Dial::None,
            }),
            Start::Command { args } => {
                let mut args = args.iter().map(|arg| arg.replace("{run}", &run.to_string()));
                let mut command = Command::new(args.next().unwrap_or_default());
                command
                    .args(args)
                    .stdin(Stdio::null())
                    .stdout(writer)
                    .stderr(errors);
                command.env_clear().env("PATH", "/usr/bin:/usr/sbin");
                Ok(Self {
                    what: What::Process(command),
                    inherited: Vec::new(),
                    output,
                    dial: Dial::Listener(vsock_listener()?),
                })
            }
            Start::Vmm {
                kernel,
                initramfs,
                command_line,
                memory_mib,
                disk,
            } => {
                let (uplink, theirs) = socketpair(
                    AddressFamily::Unix,
                    SockType::SeqPacket,
                    None,
                    SockFlag::SOCK_CLOEXEC,
                )?;
                let config = VmmConfig {
                    kernel,
                    initramfs: initramfs.as_deref(),
                    command_line,
                    memory_mib: *memory_mib,
                    disk: disk.as_deref(),
                };
                let inherited = config.open(writer.into(), theirs, run)?;
                fs::create_dir_all(EMPTY)?;
                let mut command = Command::new(VMM);
                let fd = inherited
                    .last()
                    .expect("the configuration is the last")
                    .as_raw_fd();
                command.args(["--config-fd", &fd.to_string()]).current_dir(EMPTY);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
                Ok(Self {
                    what: What::Process(command),
                    inherited,
                    output,
                    dial: Dial::Uplink(uplink),
                })
            }
        }
    }

    /// Starts it. A task runs when that returns.
    pub fn start(self) -> io::Result<Launched> {
        let fds: Vec<BorrowedFd<'_>> = self.inherited.iter().map(AsFd::as_fd).collect();
        let (process, output) = match self.what {
            What::Process(mut command) => {
                let process = Process::spawn(&mut command, &fds).map_err(io::Error::other)?;
                (Some(process), self.output)
            }
            What::Task(task) => (None, task.start()?),
        };
        Ok(Launched {
            process,
            output,
            printed: Vec::new(),
            dial: self.dial,
        })
    }
}

struct VmmConfig<'a> {
    kernel: &'a str,
    initramfs: Option<&'a str>,
    command_line: &'a str,
    memory_mib: u32,
    disk: Option<&'a str>,
}

impl VmmConfig<'_> {
    /// Opens what the VMM needs; the last descriptor is its configuration.
    fn open(&self, console: OwnedFd, uplink: OwnedFd, run: usize) -> io::Result<Vec<OwnedFd>> {
        let name = SocketAddr::from_abstract_name(format!("vsock {run} {}", self.kernel))?;
        let listener = OwnedFd::from(UnixListener::bind_addr(&name)?);
        let kvm = OwnedFd::from(File::options().read(true).write(true).open("/dev/kvm")?);
        let image = OwnedFd::from(File::open(self.kernel)?);
        let initramfs = self.initramfs.map(File::open).transpose()?.map(OwnedFd::from);
        let disk = self
            .disk
            .map(|path| File::options().read(true).write(true).open(path))
            .transpose()?
            .map(OwnedFd::from);
        let blocks = disk.iter().map(|disk| BlockConfig {
            id: "disk".to_owned(),
            image: disk.as_raw_fd(),
            format: ImageFormat::Raw,
            referred: Vec::new(),
            read_only: false,
        });
        let config = VmConfig {
            kvm: kvm.as_raw_fd(),
            vcpus: 1,
            max_vcpus: None,
            memory_mib: self.memory_mib,
            max_memory_mib: None,
            memory_backing: MemoryBacking::default(),
            kernel: KernelConfig {
                image: image.as_raw_fd(),
                initramfs: initramfs.as_ref().map(AsRawFd::as_raw_fd),
                command_line: self.command_line.to_owned(),
            },
            vsock: Some(VsockConfig {
                cid: 3,
                listener: listener.as_raw_fd(),
                uplink: Some(uplink.as_raw_fd()),
            }),
            filesystem: None,
            blocks: blocks.collect(),
            rng: true,
            page_reporting: true,
            network_slots: 0,
            disk_slots: 0,
            console: Some(console.as_raw_fd()),
            control: None,
            report: None,
        };
        let mut file = File::from(memfd_create(c"config", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(&config)?)?;
        io::Seek::rewind(&mut file)?;
        let mut fds = vec![kvm, image, listener, uplink, console];
        fds.extend(initramfs);
        fds.extend(disk);
        fds.push(file.into());
        Ok(fds)
    }
}

fn vsock_listener() -> io::Result<OwnedFd> {
    let listener = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(
        listener.as_raw_fd(),
        &VsockAddr::new(libc::VMADDR_CID_ANY, AGENT_PORT),
    )?;
    listen(&listener, Backlog::new(1)?)?;
    Ok(listener)
}

fn wait_until_readable(fd: impl AsFd) -> io::Result<()> {
    if poll_input(fd, LIMIT)? {
        Ok(())
    } else {
        Err(too_long(LIMIT))
    }
}

/// The error of what did not come in time.
pub fn too_long(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {limit:?}"))
}

fn poll_input(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(
        &mut polled,
        PollTimeout::try_from(limit).map_err(io::Error::other)?,
    )? > 0)
}
