//! What a new process does between its birth and its program: everything runs in the process itself, in plain
//! functions, and what fails is told to the agent by the channel.

use std::{
    convert::Infallible,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
};

use oci_spec::runtime::LinuxCapabilities;
use rustix::{
    fs::{Mode, OFlags, Uid, fchown},
    io::Errno,
    process::{Pid, chdir, getcwd, ioctl_tiocsctty, setsid, umask},
    system::{setdomainname, sethostname},
    thread::{CpuSet, set_no_new_privs},
};

use super::{
    channel::ProcessEnd,
    credentials, home,
    program::{Program, variable},
    scheduling, stdio,
    terminal::Terminal,
};
use crate::{
    container::{
        Plan,
        namespaces::{Namespaces, SharedNamespace},
        paths::{self, Kind},
        rootfs::Root,
        seccomp::SeccompFilter,
        spec::Process,
        sysctl,
    },
    failure::{Failure, Step},
    syscalls::{self, describe},
};

/// What a process without an own mask gets.
const DEFAULT_UMASK: u32 = 0o022;

/// Which of a container's processes this will be.
pub enum Role<'a> {
    /// The first: it makes the container.
    First {
        /// What is to be made.
        plan: &'a Plan,
        /// What it shares with other containers.
        shared: &'a [SharedNamespace<'a>],
    },
    /// A later one: it enters the container.
    Further {
        /// The container's namespaces.
        namespaces: Namespaces,
        /// A descriptor that stands for the first process.
        first: BorrowedFd<'a>,
        /// The first process's id in the guest.
        first_pid: Pid,
        /// The cgroup below the container's own that it is to be in, if it is to be in one.
        below: Option<BorrowedFd<'a>>,
    },
}

/// Everything that the process needs to know.
pub struct Setup<'a> {
    /// First or further.
    pub role: Role<'a>,
    /// The process object of config.json.
    pub process: &'a Process,
    /// What it may do.
    pub capabilities: Option<&'a LinuxCapabilities>,
    /// The filter of its system calls.
    pub seccomp: Option<&'a SeccompFilter>,
    /// linux.personality of its container.
    pub personality: Option<&'a oci_spec::runtime::LinuxPersonality>,
    /// The processors that it may use at first, and from its program on.
    pub processors: [Option<CpuSet>; 2],
    /// Whether it gets a terminal of its own.
    pub terminal: bool,
    /// Which of its standard files are `/dev/null`.
    pub null: [bool; 3],
}

impl Setup<'_> {
    /// Becomes the program, or tells why not and ends. `files` become descriptors 0, 1 and 2.
    pub fn run(&self, files: [RawFd; 3], channel: OwnedFd) -> ! {
        let channel = ProcessEnd::new(channel);
        let failure = match self
            .keep_only(files, &channel)
            .and_then(|()| self.proceed(&channel))
        {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        channel.send_failure(&failure);
        // SAFETY: ends the process without running what belongs to the agent.
        unsafe { libc::_exit(1) }
    }

    /// Parts with everything of the agent: signal set-up and all files but the ones needed.
    fn keep_only(&self, files: [RawFd; 3], channel: &ProcessEnd) -> Result<(), Failure> {
        use std::os::fd::AsRawFd;
        syscalls::reset_signals();
        let mut kept = vec![channel.as_raw_fd()];
        match &self.role {
            Role::First { shared, .. } => {
                kept.extend(shared.iter().map(|namespace| namespace.descriptor().as_raw_fd()));
            }
            Role::Further { first, .. } => kept.push(first.as_raw_fd()),
        }
        kept.sort_unstable();
        // SAFETY: this process never returns to the code of the agent, whose objects own the descriptors closed here.
        unsafe {
            for (number, file) in (0..).zip(files) {
                syscalls::duplicate_to(file, number, true).step(|| "set up stdio")?;
            }
            let mut first = 3;
            for descriptor in kept {
                syscalls::close_between(first, descriptor - 1).step(|| "close files")?;
                first = descriptor + 1;
            }
            syscalls::close_between(first, RawFd::MAX).step(|| "close files")
        }
    }

    fn proceed(&self, channel: &ProcessEnd) -> Result<Infallible, Failure> {
        setsid().step(|| "create a session")?;
        if let Some(processors) = &self.processors[0] {
            scheduling::set_processors(processors)?;
        }
        let terminal = match &self.role {
            Role::First { plan, shared } => self.make_container(plan, shared, channel)?,
            Role::Further {
                namespaces, first, ..
            } => self.enter_container(*namespaces, *first)?,
        };
        if let Some(terminal) = terminal {
            self.take_terminal(&terminal, channel)?;
        }
        self.restrict()?;
        let program = Program::find(
            self.process.args.as_deref().unwrap_or_default(),
            &self.environment(),
        )?;
        if let Role::First { plan, .. } = &self.role {
            channel.send_ready();
            channel.wait_for_go()?;
            plan.hooks.start_container()?;
        }
        if self.no_new_privileges() {
            self.filter_system_calls()?;
        }
        program.execute()
    }

    fn make_container(
        &self,
        plan: &Plan,
        shared: &[SharedNamespace<'_>],
        channel: &ProcessEnd,
    ) -> Result<Option<Terminal>, Failure> {
        if plan.namespaces.user() {
            channel.wait_for_go()?;
            credentials::become_root()?;
        } else {
            self.prepare_attributes()?;
        }
        let (container, linux) = (&plan.container, &plan.container.linux);
        shared.iter().try_for_each(|namespace| namespace.enter())?;
        plan.namespaces.unshare_rest(linux)?;
        if let Some(name) = &container.hostname {
            sethostname(name.as_bytes()).step(|| "set hostname")?;
        }
        if let Some(name) = &container.domainname {
            setdomainname(name.as_bytes()).step(|| "set domainname")?;
        }
        if let Some(parameters) = linux.sysctl() {
            sysctl::set_own(parameters)?;
        }
        let root = Root::build(plan)?;
        // Like other runtimes; what cannot be made is found out by the change to it.
        let _ = paths::open_or_create(root.as_fd(), &self.process.cwd, Kind::Folder);
        let terminal = if self.terminal {
            Some(root.terminal()?)
        } else {
            None
        };
        stdio::reopen_null(root.as_fd(), self.null);
        plan.hooks.create_container()?;
        root.enter(plan)?;
        Ok(terminal)
    }

    fn enter_container(
        &self,
        namespaces: Namespaces,
        first: BorrowedFd<'_>,
    ) -> Result<Option<Terminal>, Failure> {
        self.prepare_attributes()?;
        namespaces.join(first)?;
        if namespaces.user() {
            credentials::become_root()?;
        }
        let root = rustix::fs::open(
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step(|| "open the container's root")?;
        stdio::reopen_null(root.as_fd(), self.null);
        if self.terminal {
            return Terminal::open(root.as_fd()).map(Some);
        }
        Ok(None)
    }

    /// Writes the attributes that are files, while the guest's own `/proc` is there.
    fn prepare_attributes(&self) -> Result<(), Failure> {
        if let Some(score) = self.process.oom_score_adj {
            fs::write("/proc/self/oom_score_adj", score.to_string()).step(|| "set process.oomScoreAdj")?;
        }
        if let Some(profile) = self
            .process
            .apparmor_profile
            .as_deref()
            .filter(|profile| !profile.is_empty())
        {
            fs::write("/proc/self/attr/apparmor/exec", format!("exec {profile}"))
                .step(|| format!("set process.apparmorProfile \"{profile}\""))?;
        }
        Ok(())
    }

    fn take_terminal(&self, terminal: &Terminal, channel: &ProcessEnd) -> Result<(), Failure> {
        use std::os::fd::AsRawFd;
        let named = || "take the terminal";
        for number in 0..3 {
            // SAFETY: this process has no object that owns 0, 1 or 2.
            unsafe { syscalls::duplicate_to(terminal.slave.as_raw_fd(), number, true) }.step(named)?;
        }
        ioctl_tiocsctty(&terminal.slave).step(named)?;
        let owner = Uid::from_raw(self.process.user.uid());
        match fchown(&terminal.slave, Some(owner), None) {
            // A bound devpts may be read-only, or another user namespace's.
            Ok(()) | Err(Errno::PERM | Errno::ROFS) => {}
            Err(errno) => return Err(Failure::step(named(), errno)),
        }
        channel.send_terminal(terminal.master.as_fd());
        Ok(())
    }

    /// Gives up, step by step, what the program is not to have.
    fn restrict(&self) -> Result<(), Failure> {
        let process = self.process;
        if let Some(scheduler) = &process.scheduler {
            scheduling::set_scheduler(scheduler)?;
        }
        if let Some(priority) = &process.io_priority {
            scheduling::set_io_priority(priority)?;
        }
        if let Some(personality) = self.personality {
            scheduling::set_personality(personality)?;
        }
        if let Some(processors) = &self.processors[1] {
            scheduling::set_processors(processors)?;
        }
        credentials::set_limits(process.rlimits.as_deref().unwrap_or_default())?;
        umask(Mode::from_raw_mode(process.user.umask().unwrap_or(DEFAULT_UMASK)));
        // Root may go where the user may not, and the user, with a file system of its own mind, where root may not.
        let moved = self.change_folder();
        if self.no_new_privileges() {
            set_no_new_privs(true).step(|| "set process.noNewPrivileges")?;
        } else {
            self.filter_system_calls()?;
        }
        credentials::become_user(&process.user, self.capabilities)?;
        if moved.is_err() {
            self.change_folder()
        } else {
            Ok(())
        }
    }

    fn change_folder(&self) -> Result<(), Failure> {
        let cwd = &self.process.cwd;
        let result = chdir(cwd).and_then(|()| match getcwd(Vec::new())?.as_bytes().first() {
            Some(b'/') => Ok(()),
            // Outside of the root.
            _ => Err(Errno::NOENT),
        });
        result.map_err(|errno| {
            let text = describe(errno).to_lowercase();
            Failure::new(format!("chdir to cwd \"{}\": {text}", cwd.display()))
        })
    }

    fn filter_system_calls(&self) -> Result<(), Failure> {
        match self.seccomp {
            Some(filter) => filter.install().step(|| "install linux.seccomp"),
            None => Ok(()),
        }
    }

    fn environment(&self) -> Vec<String> {
        let mut env = self.process.env.clone().unwrap_or_default();
        if variable(&env, "HOME").is_none_or(str::is_empty) {
            env.push(format!("HOME={}", home::of_user(self.process.user.uid())));
        }
        env
    }

    fn no_new_privileges(&self) -> bool {
        self.process.no_new_privileges == Some(true)
    }
}
