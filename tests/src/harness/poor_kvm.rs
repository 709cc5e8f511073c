//! A KVM that cannot run stock guests, on a machine whose KVM can.
//!
//! A seccomp filter hands every `KVM_RUN` of a command and its children to the test. The test answers as a KVM
//! without hardware support does when it meets an instruction that it cannot emulate: the call succeeds, and the shared
//! page says `KVM_EXIT_INTERNAL_ERROR`.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::Pid;

use super::processes;
use super::seccomp_filter::{end, install, load, unless};

/// `_IO(KVMIO, 0x80)` of linux/kvm.h.
const KVM_RUN: u32 = 0xae80;
/// `KVM_EXIT_INTERNAL_ERROR` and `KVM_INTERNAL_ERROR_EMULATION` of linux/kvm.h.
const EXIT_INTERNAL_ERROR: u32 = 17;
const ERROR_EMULATION: u32 = 1;
/// Where `struct kvm_run` has `exit_reason`, and the fields `suberror` and `ndata` of an internal error.
const EXIT_REASON: u64 = 8;
const SUBERROR: u64 = 32;

nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
nix::ioctl_readwrite!(answer, b'!', 1, libc::seccomp_notif_resp);

/// The test's end of it.
pub struct PoorKvm {
    from_command: UnixDatagram,
}

impl PoorKvm {
    /// Gives `command`, which must not be running, a poor KVM; needs root.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn install(command: &mut Command) -> io::Result<Self> {
        let (from_command, to_test) = UnixDatagram::pair()?;
        // SAFETY: seccomp(2) and sendmsg(2) are async-signal-safe, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                let listener = filter_kvm_run()?;
                let fds = [listener.as_raw_fd()];
                let message = [ControlMessage::ScmRights(&fds)];
                sendmsg::<()>(
                    to_test.as_raw_fd(),
                    &[IoSlice::new(b"!")],
                    &message,
                    MsgFlags::empty(),
                    None,
                )?;
                Ok(())
            });
        }
        Ok(Self { from_command })
    }

    /// Serves the command, once it was started, on a thread that ends with the last process that has the filter.
    ///
    /// # Errors
    /// The command did not hand over its filter.
    pub fn serve(self) -> io::Result<()> {
        let listener = receive_descriptor(&self.from_command)?;
        thread::spawn(move || {
            while wait_for_call(&listener) {
                // The caller may have been killed meanwhile.
                let _ = fail_call(&listener);
            }
        });
        Ok(())
    }
}

/// Installs the filter, and returns its listener.
fn filter_kvm_run() -> io::Result<OwnedFd> {
    // struct seccomp_data: the number at 0, the low half of the second argument at 24.
    let filter = [
        load(0),
        unless(libc::SYS_ioctl as u32, 3),
        load(24),
        unless(KVM_RUN, 1),
        end(libc::SECCOMP_RET_USER_NOTIF),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let fd = install(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn receive_descriptor(socket: &UnixDatagram) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!(i32);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let fd = match message.cmsgs()?.next() {
        Some(ControlMessageOwned::ScmRights(fds)) => fds.first().copied(),
        _ => None,
    };
    let fd = fd.ok_or_else(|| io::Error::other("no descriptor in the message"))?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// False when nobody is left who could call.
fn wait_for_call(listener: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::NONE).is_ok()
        && polled[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLIN))
}

fn fail_call(listener: &OwnedFd) -> io::Result<()> {
    // SAFETY: all zeroes is a value of it, and what the kernel asks for.
    let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: `call` is of the type that the kernel fills.
    unsafe { receive(listener.as_raw_fd(), &raw mut call) }?;
    let caller = Pid::from_raw(call.pid.cast_signed());
    write_exit(caller, call.data.args[0])?;
    let mut response = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: 0,
        flags: 0,
    };
    // SAFETY: `response` is of the type that the kernel reads.
    unsafe { answer(listener.as_raw_fd(), &raw mut response) }?;
    Ok(())
}

/// Writes the exit into the page that the caller shares with the kernel for its virtual processor `fd`.
fn write_exit(caller: Pid, fd: u64) -> io::Result<()> {
    let vcpu = fs::read_link(processes::file(caller, &format!("fd/{fd}")))?;
    let maps = fs::read_to_string(processes::file(caller, "maps"))?;
    let page = maps
        .lines()
        .find(|line| vcpu.to_str().is_some_and(|name| line.ends_with(name)))
        .and_then(|line| u64::from_str_radix(line.split_once('-')?.0, 16).ok())
        .ok_or_else(|| io::Error::other(format!("no mapping of {}", vcpu.display())))?;
    let memory = File::options().write(true).open(processes::file(caller, "mem"))?;
    memory.write_all_at(&EXIT_INTERNAL_ERROR.to_le_bytes(), page + EXIT_REASON)?;
    let [a, b, c, d] = ERROR_EMULATION.to_le_bytes();
    memory.write_all_at(&[a, b, c, d, 0, 0, 0, 0], page + SUBERROR)
}
