//! The new process between its making and its becoming the VMM. It is a copy of a process that may have had other
//! threads, so it makes system calls and touches memory that was there before, and nothing else.

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{mem, ptr};

use super::LaunchError;

const NAME: &CStr = c"bulkhead-vmm";
const OPTION: &CStr = c"--config-fd";
/// [`super::CONFIGURATION`] as text.
const NUMBER: &CStr = c"3";

/// `CLONE_INTO_CGROUP` of linux/sched.h, which does not fit the C library's type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child does, in this order.
#[derive(Clone, Copy)]
enum Step {
    UnblockSignals,
    EnterDirectory,
    ArrangeDescriptors,
    Execute,
}

impl Step {
    const ALL: [Step; 4] = [
        Step::UnblockSignals,
        Step::EnterDirectory,
        Step::ArrangeDescriptors,
        Step::Execute,
    ];

    fn text(self) -> &'static str {
        match self {
            Step::UnblockSignals => "unblock its signals",
            Step::EnterDirectory => "enter its working directory",
            Step::ArrangeDescriptors => "arrange its descriptors",
            Step::Execute => "execute the VMM's binary",
        }
    }
}

/// A process about to be made, with everything that it will need.
pub struct Child {
    directory: RawFd,
    /// The descriptors that become 0, 1, 2, …; and last the binary.
    sources: Vec<RawFd>,
    /// How many sources there are: the first number that none of them is to have.
    count: RawFd,
    /// Where they are kept out of each other's way.
    moved: Vec<RawFd>,
    failure: PipeReader,
    failure_end: PipeWriter,
}

impl Child {
    /// A child that executes `binary` in `directory`, with `inherited` as its descriptors from 0. All must stay open until
    /// it has started.
    pub fn new(binary: &File, directory: BorrowedFd, inherited: Vec<RawFd>) -> io::Result<Self> {
        let (failure, failure_end) = io::pipe()?;
        let mut sources = inherited;
        sources.push(binary.as_raw_fd());
        Ok(Child {
            directory: directory.as_raw_fd(),
            count: RawFd::try_from(sources.len()).map_err(io::Error::other)?,
            moved: vec![-1; sources.len()],
            sources,
            failure,
            failure_end,
        })
    }

    /// Makes the process and waits until it has become the VMM.
    pub fn start(mut self, cgroup: Option<BorrowedFd>) -> Result<(libc::pid_t, OwnedFd), LaunchError> {
        let mut pidfd: RawFd = -1;
        // SAFETY: all bytes zero are a valid clone_args.
        let mut args: libc::clone_args = unsafe { mem::zeroed() };
        args.flags = u64::from((libc::CLONE_NEWPID | libc::CLONE_PIDFD).cast_unsigned());
        args.pidfd = &raw mut pidfd as u64;
        args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
        }
        // SAFETY: without a stack and CLONE_VM it is a fork; the child runs `become_vmm`, which keeps to what the child of
        // a process with several threads may do.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
        match pid {
            -1 => return Err(LaunchError::Clone(io::Error::last_os_error())),
            0 => self.become_vmm(),
            _ => {}
        }
        // SAFETY: the kernel made it for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let pid = libc::pid_t::try_from(pid).expect("a process id is an int");
        drop(self.failure_end);
        let mut what = [0; 5];
        // The child's end of the pipe closes when it executes the VMM, or is killed before.
        let Ok(()) = self.failure.read_exact(&mut what) else {
            return Ok((pid, pidfd));
        };
        // SAFETY: waits for the child, which ends by itself now.
        unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
        let [step, errno @ ..] = what;
        let step = Step::ALL
            .get(usize::from(step))
            .map_or("start", |step| step.text());
        Err(LaunchError::Become(
            step,
            io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
        ))
    }

    fn become_vmm(&mut self) -> ! {
        let failure = self.failure_end.as_raw_fd();
        // SAFETY: this is the child, in which nothing else runs and which uses no descriptor but these afterwards.
        let (step, failure) = unsafe { self.try_become_vmm(failure) };
        // SAFETY: errno is this thread's.
        let [a, b, c, d] = unsafe { *libc::__errno_location() }.to_ne_bytes();
        let what = [step as u8, a, b, c, d];
        // SAFETY: a valid buffer; _exit does not return.
        unsafe {
            libc::write(failure, what.as_ptr().cast(), what.len());
            libc::_exit(1)
        }
    }

    /// Returns the step that failed, and where the pipe is on which to say so; errno says why.
    ///
    /// # Safety
    /// Only in a process of one thread that is to be replaced: its descriptors change.
    unsafe fn try_become_vmm(&mut self, mut failure: RawFd) -> (Step, RawFd) {
        // SAFETY: system calls on valid values; the strings end with a zero byte.
        unsafe {
            let mut none: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut none);
            if libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) != 0 {
                return (Step::UnblockSignals, failure);
            }
            if libc::fchdir(self.directory) != 0 {
                return (Step::EnterDirectory, failure);
            }
            // First all out of the way, then each to its place: one may be in another's place.
            let out_of_the_way = |fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, self.count);
            match out_of_the_way(failure) {
                -1 => return (Step::ArrangeDescriptors, failure),
                moved => failure = moved,
            }
            for (source, moved) in self.sources.iter().zip(&mut self.moved) {
                *moved = out_of_the_way(*source);
                if *moved < 0 {
                    return (Step::ArrangeDescriptors, failure);
                }
            }
            let [inherited @ .., binary] = &self.moved[..] else {
                return (Step::ArrangeDescriptors, failure);
            };
            for (place, fd) in (0..).zip(inherited) {
                if libc::dup2(*fd, place) < 0 {
                    return (Step::ArrangeDescriptors, failure);
                }
            }
            // What else this process had open closes as it is replaced. Before Linux 5.11 that is left to each one's flag.
            libc::syscall(
                libc::SYS_close_range,
                self.count - 1,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            let arguments = [NAME.as_ptr(), OPTION.as_ptr(), NUMBER.as_ptr(), ptr::null()];
            let environment: [*const c_char; 1] = [ptr::null()];
            libc::execveat(
                *binary,
                c"".as_ptr(),
                arguments.as_ptr().cast(),
                environment.as_ptr().cast(),
                libc::AT_EMPTY_PATH,
            );
            (Step::Execute, failure)
        }
    }
}
