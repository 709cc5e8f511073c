//! The system calls that rustix has no safe wrapper for, each behind the smallest function that does.

use std::{
    io::Error,
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use libc::{c_int, c_long, sock_filter};
use rustix::{io::Errno, process::Pid, thread::UnshareFlags};

/// What both sides of [`clone_into`] learn.
pub enum Cloned {
    /// The caller: the child's process id and a descriptor that stands for it.
    Parent(Pid, OwnedFd),
    /// The new process.
    Child,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts a copy of this process in the given new namespaces, as a member of a cgroup from its first instruction.
///
/// # Errors
/// What clone3(2) gives; `EBUSY` when the cgroup distributes controllers to children, `EAGAIN` at a pids limit.
///
/// # Safety
/// This process must have one thread, as the child has only the calling one and everything that others hold locked.
pub unsafe fn clone_into(namespaces: UnshareFlags, cgroup: BorrowedFd<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields of `clone_args` are integers, for which zero is valid.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = u64::from(namespaces.bits()) | (libc::CLONE_PIDFD as u64) | CLONE_INTO_CGROUP;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: no CLONE_VM and no stack, so the child continues here on its own copy of memory; the caller vouches
    // for the threads.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) })?;
    match Pid::from_raw(pid as c_int) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel has stored a new descriptor, which nobody else knows.
        Some(pid) => Ok(Cloned::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// The attributes of a mount, or of a tree of mounts, that [`mount_setattr`] changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_*` to be set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to be cleared.
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
}

/// Changes the mount that `mount` is the root of, and with `recursive` all mounts below.
///
/// # Errors
/// What mount_setattr(2) gives.
pub fn mount_setattr(mount: impl AsFd, attributes: MountAttributes, recursive: bool) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads `attr` of the given size and an empty path.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    })?;
    Ok(())
}

/// Puts the calling process into new namespaces.
///
/// # Errors
/// What unshare(2) gives.
pub fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: only sharing of descriptors would be unsafe, and no caller passes `FILES`.
    unsafe { rustix::thread::unshare_unsafe(namespaces.difference(UnshareFlags::FILES)) }
}

/// Closes every descriptor from `first` to `last`; none when that is before `first`.
///
/// # Errors
/// What close_range(2) gives.
///
/// # Safety
/// No object of this process may use, or close, one of these descriptors later.
pub unsafe fn close_between(first: RawFd, last: RawFd) -> Result<(), Errno> {
    if first <= last {
        // SAFETY: the caller vouches for the owners of the descriptors.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    }
    Ok(())
}

/// Makes `from` also known as the number `to`, across exec when `keep`.
///
/// # Errors
/// What dup3(2) gives.
///
/// # Safety
/// No object of this process may own `to`.
pub unsafe fn duplicate_to(from: RawFd, to: RawFd, keep: bool) -> Result<(), Errno> {
    let flags = if keep { 0 } else { libc::O_CLOEXEC };
    // SAFETY: the caller vouches for the owner of `to`.
    check(unsafe { libc::dup3(from, to, flags) }.into())?;
    Ok(())
}

/// Installs a seccomp filter for the calling thread.
///
/// # Errors
/// What seccomp(2) gives.
pub fn seccomp_set_filter(program: &[sock_filter], flags: u64) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from `filter` and writes nothing.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })?;
    Ok(())
}

/// One instruction of the kernel's extended BPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInstruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high.
    pub registers: u8,
    /// Distance of a jump, from the next instruction.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_ATTACH: c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

/// Loads a program that decides about the use of devices and attaches it to a cgroup.
///
/// # Errors
/// What bpf(2) gives.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[BpfInstruction]) -> Result<(), Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the kernel reads `load`, the instructions and the license, and writes nothing as there is no log.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of_val(&load)) })?;
    // SAFETY: the call has made this descriptor.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: the kernel reads `attach`.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            size_of_val(&attach),
        )
    })?;
    Ok(())
}

/// The argument of sched_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedulingAttributes {
    /// Size of this structure.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, for the ordinary policies.
    pub nice: i32,
    /// 1 to 99, for the real-time policies.
    pub priority: u32,
    /// Nanoseconds, for the deadline policy.
    pub runtime: u64,
    /// Nanoseconds, for the deadline policy.
    pub deadline: u64,
    /// Nanoseconds, for the deadline policy.
    pub period: u64,
}

/// Sets the scheduling of the calling thread.
///
/// # Errors
/// What sched_setattr(2) gives.
pub fn sched_setattr(mut attributes: SchedulingAttributes) -> Result<(), Errno> {
    attributes.size = size_of_val(&attributes) as u32;
    // SAFETY: the kernel reads as many bytes as the structure says.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
    Ok(())
}

/// Sets the I/O priority of the calling thread.
///
/// # Errors
/// What ioprio_set(2) gives.
pub fn ioprio_set(class: u8, level: u8) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    let priority = (c_int::from(class) << 13) | c_int::from(level);
    // SAFETY: the call takes integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })?;
    Ok(())
}

/// Sets the execution domain.
///
/// # Errors
/// What personality(2) gives.
pub fn personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: the call takes an integer only.
    check(unsafe { libc::personality(domain.into()) }.into())?;
    Ok(())
}

/// Blocks SIGCHLD for this process and gives a non-blocking descriptor that is readable while one is pending.
///
/// # Errors
/// What sigprocmask(2) and signalfd(2) give.
pub fn child_signals() -> Result<OwnedFd, Errno> {
    // SAFETY: `set` is initialised by sigemptyset; both calls read it only.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Gives the calling process the signal set-up that a program expects: nothing blocked, SIGPIPE deadly.
pub fn reset_signals() {
    // SAFETY: `set` is initialised by sigemptyset; SIG_DFL is a valid disposition. Neither call can fail.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Ends every process that it inherits, by the kernel's own doing, and itself at a signal that cannot be ignored only. For
/// the first process of new process ids, which has nothing else to do.
pub fn adopt_orphans() -> ! {
    reset_signals();
    // SAFETY: nothing of the agent runs in this process any more that could use a descriptor. SIG_IGN is a valid
    // disposition; for SIGCHLD it says that nobody waits.
    unsafe {
        let _ = close_between(0, RawFd::MAX);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        loop {
            libc::pause();
        }
    }
}

/// Kills every process but this one, in the process ids that this one is the first of.
pub fn kill_all() {
    // SAFETY: the call takes integers only. It fails only when there is no other process.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Brings up the loopback interface.
///
/// # Errors
/// What socket(2) and ioctl(2) give.
pub fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: zero is valid for all fields of `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads an `ifreq`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())?;
    Ok(())
}

/// An error's text as programs know it, without the number.
pub fn describe(errno: Errno) -> String {
    let text = Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result < 0 {
        Err(Errno::from_io_error(&Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(result)
    }
}
