//! A pod's own container. It has no program: all that there is for it to do is to hold the namespaces that the pod's other
//! containers share. Only process ids need a process that holds them, and get one when they are first shared.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::OnceLock,
    thread,
};

use bulkhead_agent_protocol::messages::CreatePodRequest;
use rustix::{
    process::Pid,
    system::{setdomainname, sethostname},
    thread::UnshareFlags,
};
use tokio::sync::watch;

use crate::{
    container::{
        cgroup,
        namespaces::{Namespaces, Share, Source},
        spec::{ContainerSpec, SpecError},
        sysctl,
    },
    error::AgentError,
    failure::{Failure, Step},
    reaper::{Exit, ExitReceiver},
    syscalls::{self, Cloned},
};

/// The kinds that live as long as a descriptor of them does, and the names of their files in `/proc/<pid>/ns`.
const HELD: [(UnshareFlags, &str); 2] = [(UnshareFlags::NEWUTS, "uts"), (UnshareFlags::NEWIPC, "ipc")];

/// A pod's own container, from its creation to its deletion.
#[derive(Debug)]
pub struct Pod {
    id: String,
    namespaces: Namespaces,
    held: Vec<(UnshareFlags, OwnedFd)>,
    /// The first process of the process ids, once they are shared.
    init: OnceLock<(Pid, OwnedFd)>,
    end: watch::Sender<Option<Exit>>,
}

impl Pod {
    /// Makes its namespaces, with their names and parameters.
    ///
    /// # Errors
    /// A field of the description that is wrong or cannot be honoured, or a step that failed; nothing is left then.
    pub fn create(request: &CreatePodRequest) -> Result<Self, AgentError> {
        let container = ContainerSpec::parse(&request.spec)?;
        let (namespaces, shares) = Namespaces::parse(&container)?;
        if let Some(share) = shares.first() {
            let text = format!("{}: a namespace of another container, for a pod", share.field);
            return Err(SpecError::Unsupported(text).into());
        }
        if namespaces.user() {
            let text = "linux.namespaces: a user namespace that a whole pod shares".to_owned();
            return Err(SpecError::Unsupported(text).into());
        }
        let none = HashMap::new();
        let parameters = container.linux.sysctl().as_ref().unwrap_or(&none);
        sysctl::check(parameters, namespaces)?;
        sysctl::set_network(parameters)?;
        // Namespaces are a thread's own, so that one is enough to make them.
        let held = thread::scope(|scope| {
            let maker = scope.spawn(|| hold(namespaces, &container, parameters));
            maker
                .join()
                .unwrap_or_else(|_| Err(Failure::new("make the pod's namespaces")))
        })?;
        Ok(Self {
            id: request.container_id.clone(),
            namespaces,
            held,
            init: OnceLock::new(),
            end: watch::channel(None).0,
        })
    }

    /// A namespace of it, for another container to share.
    ///
    /// # Errors
    /// It has ended, has none of that kind, or its first process could not be started.
    pub fn source(&self, share: &Share) -> Result<Source<'_>, AgentError> {
        self.check_alive()?;
        if share.kind() == UnshareFlags::NEWPID && self.namespaces.pid() {
            return Ok(Source::Process(self.init()?.as_fd()));
        }
        let held = self.held.iter().find(|(kind, _)| *kind == share.kind());
        let (_, namespace) = held.ok_or_else(|| {
            SpecError::invalid(
                &share.field,
                format!("container \"{}\" has no namespace of this kind", self.id),
            )
        })?;
        Ok(Source::Namespace(namespace.as_fd()))
    }

    fn init(&self) -> Result<&OwnedFd, Failure> {
        if let Some((_, process)) = self.init.get() {
            return Ok(process);
        }
        let cgroup = File::open(cgroup::MOUNT_POINT).step(|| format!("open {}", cgroup::MOUNT_POINT))?;
        // SAFETY: the agent has one thread.
        let cloned = unsafe { syscalls::clone_into(UnshareFlags::NEWPID, cgroup.as_fd()) };
        match cloned.step(|| "start the first process of the pod's process ids")? {
            Cloned::Child => syscalls::adopt_orphans(),
            Cloned::Parent(pid, process) => Ok(&self.init.get_or_init(|| (pid, process)).1),
        }
    }

    fn check_alive(&self) -> Result<(), AgentError> {
        match *self.end.borrow() {
            None => Ok(()),
            Some(_) => Err(AgentError::State(format!("container \"{}\" has ended", self.id))),
        }
    }

    /// Ends it as the signal would end a program that waits for signals: those that ask for the end are obeyed. 0 is no
    /// signal, and tells whether it is alive.
    ///
    /// # Errors
    /// The number is no signal's, or it has ended.
    pub fn signal(&self, number: u32) -> Result<(), AgentError> {
        self.check_alive()?;
        let signal = match i32::try_from(number) {
            Ok(libc::SIGKILL) => number,
            Ok(libc::SIGTERM | libc::SIGINT) => 0,
            Ok(0..=64) => return Ok(()),
            _ => return Err(AgentError::Request(format!("{number} is no signal"))),
        };
        self.end.send_replace(Some(Exit::by(signal)));
        Ok(())
    }

    /// Tells of its end.
    pub fn exit(&self) -> ExitReceiver {
        self.end.subscribe()
    }

    /// Removes what it has in the guest. Its namespaces go with their last user.
    ///
    /// # Errors
    /// It has not ended.
    pub fn delete(&self) -> Result<(), AgentError> {
        if self.check_alive().is_ok() {
            let text = format!("container \"{}\" is still running", self.id);
            return Err(AgentError::State(text));
        }
        if let Some((pid, _)) = self.init.get() {
            // It may have been killed from within.
            let _ = rustix::process::kill_process(*pid, rustix::process::Signal::KILL);
        }
        Ok(())
    }
}

/// Moves the calling thread into new namespaces, gives them their names and parameters, and opens them.
fn hold(
    namespaces: Namespaces,
    container: &ContainerSpec,
    parameters: &HashMap<String, String>,
) -> Result<Vec<(UnshareFlags, OwnedFd)>, Failure> {
    let kinds = HELD
        .iter()
        .filter(|(kind, _)| namespaces.at_start().contains(*kind));
    let flags = kinds.clone().map(|(kind, _)| *kind).collect();
    syscalls::unshare(flags).step(|| "make the pod's namespaces")?;
    if let Some(name) = &container.hostname {
        sethostname(name.as_bytes()).step(|| "set hostname")?;
    }
    if let Some(name) = &container.domainname {
        setdomainname(name.as_bytes()).step(|| "set domainname")?;
    }
    sysctl::set_own(parameters)?;
    let open = |(kind, name): &(UnshareFlags, &str)| -> io::Result<_> {
        Ok((*kind, File::open(format!("/proc/thread-self/ns/{name}"))?.into()))
    };
    kinds
        .map(open)
        .collect::<io::Result<_>>()
        .step(|| "open the pod's namespaces")
}
