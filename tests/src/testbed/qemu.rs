//! One QEMU that emulates L1.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};

use super::log::Log;
use super::process::Process;
use super::qmp::Monitor;
use super::{Error, counter};

/// One emulated CPU and one thread: with two, L1's kernel patching its own code races with TCG's translation and
/// panics now and then, and guests in L1 with two CPUs may spin for ever. Without `erms` and `fsrm` kernels clear and copy pages by
/// 8 bytes; TCG emulates `rep stosb` byte by byte, and two thirds of a test were that.
pub const CPU: [&str; 6] = [
    "-accel",
    "tcg,thread=single",
    "-smp",
    "1",
    "-cpu",
    "max,-erms,-fsrm",
];

/// Words the kernel does not know would become arguments of init. The frequency of the time stamp counter goes with them: the
/// kernel would measure it, wrongly by far on a busy machine, and L1's clock would run as wrongly. Debian's kernel clears all
/// memory once more when it gives it out, unless it is told not to.
pub const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet loglevel=4 tsc=reliable no_timer_check mitigations=off nokaslr audit=0 \
     init_on_alloc=0";

/// What QEMU starts with.
pub struct Machine<'a> {
    /// Memory of L1, MiB.
    pub memory_mib: u32,
    /// L1's kernel.
    pub kernel: &'a Path,
    /// L1's initramfs.
    pub initramfs: &'a Path,
    /// Wait for a saved state instead of booting.
    pub incoming: bool,
    /// vhost-user sockets, which become the character devices `share0`, `share1`, ….
    pub shares: &'a [BorrowedFd<'a>],
}

/// A running QEMU.
pub struct Qemu {
    monitor: Monitor,
    console: Log,
    errors: Log,
    process: Process,
}

impl Qemu {
    /// L1's memory, all zero: a file without a name, so that nothing stays behind.
    ///
    /// # Errors
    /// No memory.
    pub fn memory(mib: u32) -> io::Result<File> {
        let memory = File::from(memfd_create(c"l1-memory", MFdFlags::MFD_CLOEXEC)?);
        memory.set_len(u64::from(mib) << 20)?;
        Ok(memory)
    }

    /// Starts QEMU on `memory`.
    ///
    /// # Errors
    /// QEMU does not start or ends at once.
    pub fn start(machine: &Machine<'_>, memory: &File) -> Result<Self, Error> {
        let io_error = |source| Error::Program {
            program: "qemu-system-x86_64".into(),
            source,
        };
        let console = Log::new().map_err(io_error)?;
        let errors = Log::new().map_err(io_error)?;
        let (ours, theirs) = UnixStream::pair().map_err(io_error)?;
        let monitor_fd = OwnedFd::from(theirs);

        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-M",
                "pc",
            ])
            .args(CPU);
        let mib = machine.memory_mib;
        command
            .args([
                "-m",
                &format!("{mib}M"),
                "-machine",
                "memory-backend=memory",
                "-object",
            ])
            .arg(format!(
                "memory-backend-file,id=memory,size={mib}M,share=on,mem-path=/proc/self/fd/{}",
                memory.as_raw_fd()
            ));
        command.args([
            "-netdev",
            "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:7",
        ]);
        command.args([
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
            "-device",
            "virtio-rng-pci",
        ]);
        command.arg("-chardev").arg(format!(
            "file,id=console,path=/proc/self/fd/{}",
            console.file().as_raw_fd()
        ));
        command.args(["-serial", "chardev:console"]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=monitor,fd={}", monitor_fd.as_raw_fd()));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        for (number, share) in machine.shares.iter().enumerate() {
            command
                .arg("-chardev")
                .arg(format!("socket,id=share{number},fd={}", share.as_raw_fd()));
        }
        command
            .arg("-kernel")
            .arg(machine.kernel)
            .arg("-initrd")
            .arg(machine.initramfs);
        let frequency = counter::frequency_khz();
        command.arg("-append");
        command.arg(format!("{KERNEL_COMMAND_LINE} tsc_early_khz={frequency}"));
        if machine.incoming {
            command.args(["-incoming", "defer"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(errors.stream().map_err(io_error)?);

        let mut fds = vec![memory.as_fd(), monitor_fd.as_fd(), console.file().as_fd()];
        fds.extend(machine.shares);
        let process = Process::spawn(&mut command, &fds)?;
        drop(monitor_fd);
        let monitor = Monitor::new(ours).map_err(|error| Error::Qemu {
            what: format!("does not start: {error}"),
            output: errors.tail(),
        })?;
        Ok(Self {
            monitor,
            console,
            errors,
            process,
        })
    }

    /// Runs a monitor command.
    ///
    /// # Errors
    /// QEMU's own, or it ended.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        self.monitor
            .execute(command, arguments)
            .map_err(|error| Error::Qemu {
                what: error.to_string(),
                output: format!("{}\n{}", self.errors.tail(), self.console()),
            })
    }

    /// Saves the state without the memory, which stays in its file, into `state`, or continues from there. L1 is
    /// stopped afterwards.
    ///
    /// # Errors
    /// QEMU's own.
    pub fn migrate(&mut self, direction: Direction, state: &File) -> Result<(), Error> {
        let capability = |name: &str| json!({ "capability": name, "state": true });
        let capabilities = json!([capability("x-ignore-shared"), capability("events")]);
        self.execute(
            "migrate-set-capabilities",
            &json!({ "capabilities": capabilities }),
        )?;
        self.monitor
            .pass_fd("state", state.as_fd())
            .map_err(|error| Error::Qemu {
                what: error.to_string(),
                output: self.errors.tail(),
            })?;
        let uri = json!({ "uri": "fd:state" });
        let command = match direction {
            Direction::Out => "migrate",
            Direction::In => "migrate-incoming",
        };
        self.execute(command, &uri)?;
        self.monitor.migration_end().map_err(|error| Error::Qemu {
            what: format!("{command}: {error}"),
            output: self.errors.tail(),
        })
    }

    /// Where on the host L1's agent answers.
    ///
    /// # Errors
    /// QEMU does not say.
    pub fn agent_address(&mut self) -> Result<SocketAddr, Error> {
        let table = self.execute(
            "human-monitor-command",
            &json!({ "command-line": "info usernet" }),
        )?;
        let table = table.as_str().unwrap_or_default();
        // "  TCP[HOST_FORWARD]  13  127.0.0.1 39871  10.0.2.15  7  0  0"
        let port = table
            .lines()
            .filter(|line| line.contains("HOST_FORWARD"))
            .find_map(|line| line.split_whitespace().nth(3)?.parse().ok());
        port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .ok_or_else(|| Error::Qemu {
                what: "no forwarded port".into(),
                output: table.to_owned(),
            })
    }

    /// The end of what L1 printed on its console.
    pub fn console(&self) -> String {
        self.console.tail()
    }

    /// Waits for QEMU's end.
    pub fn wait(&mut self) {
        // Only a process that is not our child cannot be waited for.
        let _ = self.process.wait();
    }

    /// What QEMU itself complained about.
    pub fn errors(&self) -> String {
        self.errors.tail()
    }

    /// Whether QEMU is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

/// Which way a state goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From QEMU to the file.
    Out,
    /// From the file to QEMU.
    In,
}
