//! The namespaces of a container.
//!
//! The network is not among them: the guest's own network stack is the sandbox's, and all its containers share it,
//! so a "network" entry is satisfied by the virtual machine itself.

use std::{collections::HashMap, fmt::Write as _, fs, path::Path};

use bulkhead_agent_protocol::NAMESPACE_OF;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset};
use rustix::{
    process::{DumpableBehavior, Pid, set_dumpable_behavior},
    thread::{
        LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
        move_into_thread_name_spaces,
    },
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::spec::{ContainerSpec, SpecError};
use crate::{
    failure::{Failure, Step},
    syscalls,
};

/// The kinds of namespaces that a process can move into, by their two names.
const KINDS: [(UnshareFlags, ThreadNameSpaceType); 6] = [
    (UnshareFlags::NEWNS, ThreadNameSpaceType::MOUNT),
    (UnshareFlags::NEWCGROUP, ThreadNameSpaceType::CONTROL_GROUP),
    (
        UnshareFlags::NEWUTS,
        ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
    ),
    (
        UnshareFlags::NEWIPC,
        ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
    ),
    (UnshareFlags::NEWUSER, ThreadNameSpaceType::USER),
    (UnshareFlags::NEWTIME, ThreadNameSpaceType::TIME),
];

/// The kinds that containers can share. Another's mounts would be no root of one's own, and another's users are known to
/// that container only.
const SHAREABLE: UnshareFlags = UnshareFlags::NEWPID
    .union(UnshareFlags::NEWIPC)
    .union(UnshareFlags::NEWUTS)
    .union(UnshareFlags::NEWCGROUP)
    .union(UnshareFlags::NEWTIME);

/// Which namespaces a container has, apart from the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces {
    own: UnshareFlags,
    shared: UnshareFlags,
}

/// A namespace that is another container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// That container's id.
    pub container: String,
    /// The field that asks for it.
    pub field: String,
    kind: UnshareFlags,
}

/// What leads to a namespace.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A descriptor that stands for a process in it.
    Process(BorrowedFd<'a>),
    /// A descriptor of the namespace itself.
    Namespace(BorrowedFd<'a>),
}

/// A namespace that is another container's, and what leads to it.
#[derive(Debug, Clone, Copy)]
pub struct SharedNamespace<'a> {
    share: &'a Share,
    source: Source<'a>,
}

impl Namespaces {
    /// Reads them from a container's description, with those that other containers have.
    ///
    /// # Errors
    /// When an entry is doubled or has a path that cannot be joined, when there is no mount namespace, and when a field
    /// needs a namespace that is not there.
    pub fn parse(container: &ContainerSpec) -> Result<(Self, Vec<Share>), SpecError> {
        let (mut own, mut shared) = (UnshareFlags::empty(), UnshareFlags::empty());
        let mut shares = Vec::new();
        let mut network = false;
        for (index, namespace) in container.linux.namespaces().iter().flatten().enumerate() {
            let field = || format!("linux.namespaces[{index}]");
            let flag = match namespace.typ() {
                LinuxNamespaceType::Mount => UnshareFlags::NEWNS,
                LinuxNamespaceType::Cgroup => UnshareFlags::NEWCGROUP,
                LinuxNamespaceType::Uts => UnshareFlags::NEWUTS,
                LinuxNamespaceType::Ipc => UnshareFlags::NEWIPC,
                LinuxNamespaceType::User => UnshareFlags::NEWUSER,
                LinuxNamespaceType::Pid => UnshareFlags::NEWPID,
                LinuxNamespaceType::Time => UnshareFlags::NEWTIME,
                LinuxNamespaceType::Network => UnshareFlags::empty(),
            };
            let doubled = if flag.is_empty() {
                std::mem::replace(&mut network, true)
            } else {
                (own | shared).contains(flag)
            };
            if doubled {
                return Err(SpecError::invalid(
                    field(),
                    format!("a second {} namespace", namespace.typ()),
                ));
            }
            let Some(path) = namespace.path().as_deref().filter(|path| *path != Path::new("")) else {
                own |= flag;
                continue;
            };
            let other = path.to_str().and_then(|path| path.strip_prefix(NAMESPACE_OF));
            let Some(other) = other.filter(|_| SHAREABLE.contains(flag) && !flag.is_empty()) else {
                return Err(SpecError::Unsupported(format!(
                    "{}.path: joining the {} namespace \"{}\"",
                    field(),
                    namespace.typ(),
                    path.display()
                )));
            };
            shared |= flag;
            shares.push(Share {
                container: other.to_owned(),
                field: format!("{}.path", field()),
                kind: flag,
            });
        }
        let namespaces = Self { own, shared };
        namespaces.check(container)?;
        Ok((namespaces, shares))
    }

    fn has(self, kind: UnshareFlags) -> bool {
        (self.own | self.shared).contains(kind)
    }

    fn check(self, container: &ContainerSpec) -> Result<(), SpecError> {
        let needs = |flag, field: &str, kind: &str| {
            if self.has(flag) {
                Ok(())
            } else {
                Err(SpecError::invalid(
                    field,
                    format!("needs a {kind} namespace in linux.namespaces"),
                ))
            }
        };
        needs(UnshareFlags::NEWNS, "root", "mount")?;
        if container.hostname.is_some() {
            needs(UnshareFlags::NEWUTS, "hostname", "uts")?;
        }
        if container.domainname.is_some() {
            needs(UnshareFlags::NEWUTS, "domainname", "uts")?;
        }
        if container
            .linux
            .time_offsets()
            .as_ref()
            .is_some_and(|offsets| !offsets.is_empty())
        {
            needs(UnshareFlags::NEWTIME, "linux.timeOffsets", "time")?;
            if self.shared.contains(UnshareFlags::NEWTIME) {
                return Err(SpecError::invalid(
                    "linux.timeOffsets",
                    "the time namespace is another container's",
                ));
            }
        }
        let mapped =
            |mappings: &Option<Vec<LinuxIdMapping>>| mappings.as_ref().is_some_and(|m| !m.is_empty());
        for (mappings, field) in [
            (container.linux.uid_mappings(), "linux.uidMappings"),
            (container.linux.gid_mappings(), "linux.gidMappings"),
        ] {
            if mapped(mappings) {
                needs(UnshareFlags::NEWUSER, field, "user")?;
            } else if self.user() {
                return Err(SpecError::invalid(
                    field,
                    "is missing, and there is a new user namespace",
                ));
            }
        }
        Ok(())
    }

    /// Those that the first process is started in. The cgroup namespace must come after the move into the cgroup
    /// that is to be its root, and the time namespace can be adjusted before the first process is in it only.
    pub fn at_start(self) -> UnshareFlags {
        self.own
            .difference(UnshareFlags::NEWCGROUP | UnshareFlags::NEWTIME)
    }

    /// Whether its process ids are its own, so that the kernel ends all when the first process ends.
    pub fn ends_with_first(self) -> bool {
        self.own.contains(UnshareFlags::NEWPID)
    }

    /// Whether its process ids are not the guest's.
    pub fn pid(self) -> bool {
        self.has(UnshareFlags::NEWPID)
    }

    /// Whether it has users of its own.
    pub fn user(self) -> bool {
        self.own.contains(UnshareFlags::NEWUSER)
    }

    /// Whether it sees no cgroup above its own.
    pub fn cgroup(self) -> bool {
        self.own.contains(UnshareFlags::NEWCGROUP)
    }

    /// Whether its System V IPC and message queues are not the guest's.
    pub fn ipc(self) -> bool {
        self.has(UnshareFlags::NEWIPC)
    }

    /// Whether its host names are not the guest's.
    pub fn uts(self) -> bool {
        self.has(UnshareFlags::NEWUTS)
    }

    /// Creates those that [`Self::at_start`] leaves out, from within the first process.
    ///
    /// # Errors
    /// Names the namespace or the clock.
    pub fn unshare_rest(self, linux: &Linux) -> Result<(), Failure> {
        if self.own.contains(UnshareFlags::NEWCGROUP) {
            syscalls::unshare(UnshareFlags::NEWCGROUP).step(|| "create a cgroup namespace")?;
        }
        if self.own.contains(UnshareFlags::NEWTIME) {
            // The process itself enters it at exec.
            syscalls::unshare(UnshareFlags::NEWTIME).step(|| "create a time namespace")?;
            if let Some(offsets) = linux.time_offsets() {
                // Files of a process that has become another user are root's, until it says that it has no secrets.
                set_dumpable_behavior(DumpableBehavior::Dumpable).step(|| "set linux.timeOffsets")?;
                fs::write("/proc/self/timens_offsets", time_offsets(offsets))
                    .step(|| "set linux.timeOffsets")?;
                set_dumpable_behavior(DumpableBehavior::NotDumpable).step(|| "set linux.timeOffsets")?;
            }
        }
        Ok(())
    }

    /// Enters those of a running container, except the process ids, from within a further process.
    ///
    /// # Errors
    /// Says that the container could not be entered.
    pub fn join(self, first: BorrowedFd<'_>) -> Result<(), Failure> {
        let mut types = ThreadNameSpaceType::empty();
        for (flag, kind) in KINDS {
            types.set(kind, self.has(flag));
        }
        move_into_thread_name_spaces(first, types).step(|| "enter the container's namespaces")
    }
}

impl Share {
    /// Which kind of namespace it is.
    pub fn kind(&self) -> UnshareFlags {
        self.kind
    }

    /// The namespace, by what leads to it.
    pub fn of<'a>(&'a self, source: Source<'a>) -> SharedNamespace<'a> {
        SharedNamespace { share: self, source }
    }
}

impl<'a> SharedNamespace<'a> {
    /// The process whose process ids are shared, if this is about them: they are given to a process at its birth.
    pub fn process_ids(self) -> Option<BorrowedFd<'a>> {
        match self.source {
            Source::Process(process) if self.share.kind == UnshareFlags::NEWPID => Some(process),
            _ => None,
        }
    }

    /// The descriptor that leads to it.
    pub fn descriptor(self) -> BorrowedFd<'a> {
        match self.source {
            Source::Process(descriptor) | Source::Namespace(descriptor) => descriptor,
        }
    }

    /// Moves the calling process into it, unless it was born there.
    ///
    /// # Errors
    /// Names the field, for example when the other container's first process has ended.
    pub fn enter(self) -> Result<(), Failure> {
        let Some((_, kind)) = KINDS.iter().find(|(flag, _)| *flag == self.share.kind) else {
            return Ok(());
        };
        // setns(2) takes the kinds either way: of a namespace to be checked, of a process to be chosen.
        move_into_thread_name_spaces(self.descriptor(), *kind).step(|| {
            format!(
                "{}: enter the namespace of container \"{}\"",
                self.share.field, self.share.container
            )
        })
    }
}

/// While it lives, children of this process are born into the process ids of another.
pub struct PidNamespaceGuard {
    own: OwnedFd,
}

impl PidNamespaceGuard {
    /// Directs children into the process ids of the process that `first` stands for.
    ///
    /// # Errors
    /// When that process has ended.
    pub fn enter(first: BorrowedFd<'_>) -> Result<Self, Failure> {
        let own = fs::File::open("/proc/self/ns/pid").step(|| "open /proc/self/ns/pid")?;
        move_into_thread_name_spaces(first, ThreadNameSpaceType::PROCESS_ID)
            .step(|| "enter the container's process ids")?;
        Ok(Self { own: own.into() })
    }
}

impl Drop for PidNamespaceGuard {
    fn drop(&mut self) {
        // The new processes of other containers would end up in this one: better no agent than that.
        move_into_link_name_space(self.own.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .expect("a process can always go back to its own process ids");
    }
}

/// Gives the user namespace of `pid` its users and groups.
///
/// # Errors
/// Names the field whose mapping the kernel refuses.
pub fn map_ids(pid: Pid, linux: &Linux) -> Result<(), Failure> {
    for (mappings, file, field) in [
        (linux.uid_mappings(), "uid_map", "linux.uidMappings"),
        (linux.gid_mappings(), "gid_map", "linux.gidMappings"),
    ] {
        let lines = id_map(mappings.as_deref().unwrap_or_default());
        fs::write(format!("/proc/{}/{file}", pid.as_raw_nonzero()), lines).step(|| format!("set {field}"))?;
    }
    Ok(())
}

fn id_map(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, map| {
        let _ = writeln!(text, "{} {} {}", map.container_id(), map.host_id(), map.size());
        text
    })
}

fn time_offsets(offsets: &HashMap<String, LinuxTimeOffset>) -> String {
    offsets.iter().fold(String::new(), |mut text, (clock, offset)| {
        let _ = writeln!(
            text,
            "{clock} {} {}",
            offset.secs().unwrap_or_default(),
            offset.nanosecs().unwrap_or_default()
        );
        text
    })
}

#[cfg(test)]
mod tests;
