//! Containers: what one consists of, and its life from creation to deletion.

pub mod cgroup;
pub mod cgroup_values;
pub mod copy_up;
mod device_filter;
pub mod devices;
pub mod freezer;
pub mod hooks;
pub mod limits;
mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod paths;
pub mod processes;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod stats;
pub mod sysctl;

use std::{
    collections::HashMap,
    fs,
    os::fd::AsFd,
    sync::{Arc, Mutex},
};

use oci_spec::runtime::{LinuxIdMapping, LinuxResources};
use rustix::{fs::Uid, process::Pid, thread::UnshareFlags};

use crate::{
    error::AgentError,
    failure::Failure,
    process::{
        Process,
        channel::{AgentEnd, Message},
        launch::{Stdio, launch},
        scheduling, send_signal,
        setup::{Role, Setup},
    },
    reaper::{Exit, Reaper},
    streams::Stream,
    syscalls::BpfInstruction,
};
use cgroup::Cgroup;
use cgroup_values::Setting;
use devices::PlannedDevice;
use hooks::GuestHooks;
use mounts::PlannedMount;
use namespaces::{Namespaces, Share, Source};
use seccomp::SeccompFilter;
use spec::{ContainerSpec, Process as ProcessSpec, SpecError};

/// Everything that a config.json asks for, checked and ready to be done.
#[derive(Debug)]
pub struct Plan {
    /// The config.json itself.
    pub container: ContainerSpec,
    /// The namespaces that it has.
    pub namespaces: Namespaces,
    /// Those of them that are other containers'.
    pub shares: Vec<Share>,
    /// What is mounted, in order.
    pub mounts: Vec<PlannedMount>,
    /// What is in its `/dev`.
    pub devices: Vec<PlannedDevice>,
    /// linux.rootfsPropagation.
    pub root_propagation: Option<(u64, bool)>,
    /// What else is run in it.
    pub hooks: GuestHooks,
    limits: Vec<Setting>,
    device_program: Vec<BpfInstruction>,
    seccomp: Option<SeccompFilter>,
}

impl Plan {
    /// Reads a config.json, and the state that hooks are to be told.
    ///
    /// # Errors
    /// When it is malformed or asks for what cannot be done; the error names the field.
    pub fn parse(json: &[u8], state: &[u8]) -> Result<Self, SpecError> {
        let mut container = ContainerSpec::parse(json)?;
        let hooks = GuestHooks::new(std::mem::take(&mut container.hooks), state)?;
        let (namespaces, shares) = Namespaces::parse(&container)?;
        let linux = &container.linux;
        if let Some(parameters) = linux.sysctl() {
            sysctl::check(parameters, namespaces)?;
        }
        check_apparmor(&container.process, namespaces)?;
        let none = LinuxResources::default();
        let resources = linux.resources().as_ref().unwrap_or(&none);
        Ok(Self {
            namespaces,
            shares,
            mounts: PlannedMount::parse_all(&container.mounts)?,
            devices: PlannedDevice::parse_all(linux.devices().as_deref().unwrap_or_default())?,
            hooks,
            root_propagation: rootfs::parse_propagation(linux.rootfs_propagation().as_deref())?,
            limits: cgroup_values::settings(resources)?,
            device_program: device_filter::compile(resources.devices().as_deref().unwrap_or_default())?,
            seccomp: linux.seccomp().as_ref().map(SeccompFilter::compile).transpose()?,
            container,
        })
    }

    /// Whose the container's cgroup is to be: its user's when it may write there, and sees nothing above.
    fn cgroup_owner(&self) -> Option<Uid> {
        let writable = self.namespaces.cgroup() && self.mounts.iter().any(PlannedMount::is_writable_cgroup);
        let owner = self.user(self.container.process.user.uid());
        (writable && !owner.is_root()).then_some(owner)
    }

    /// What the guest calls a user of the container.
    fn user(&self, uid: u32) -> Uid {
        let mapped = |mapping: &LinuxIdMapping| {
            let offset = uid.checked_sub(mapping.container_id())?;
            (offset < mapping.size()).then(|| mapping.host_id().checked_add(offset))?
        };
        let mappings = self.container.linux.uid_mappings().iter().flatten();
        let exists = |uid: &u32| *uid != u32::MAX;
        Uid::from_raw(mappings.filter_map(mapped).find(exists).unwrap_or(uid))
    }
}

fn check_apparmor(process: &ProcessSpec, namespaces: Namespaces) -> Result<(), SpecError> {
    let Some(profile) = process
        .apparmor_profile
        .as_deref()
        .filter(|profile| !profile.is_empty())
    else {
        return Ok(());
    };
    let enabled =
        fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|enabled| enabled.starts_with(b"Y"));
    if !enabled || namespaces.user() {
        let why = if enabled {
            "in a user namespace"
        } else {
            "as the guest has no AppArmor"
        };
        return Err(SpecError::Unsupported(format!(
            "process.apparmorProfile \"{profile}\" ({why})"
        )));
    }
    Ok(())
}

/// A container, from its creation to its deletion.
#[derive(Debug)]
pub struct Container {
    id: String,
    plan: Plan,
    cgroup: Cgroup,
    first: Process,
    /// The first process waits behind it until the start.
    gate: Mutex<Option<AgentEnd>>,
    /// The further processes by their ids; `None` while one is being started.
    further: Mutex<HashMap<String, Option<Arc<Process>>>>,
}

/// How a process of a container ended.
pub struct Ended {
    /// By itself or by a signal.
    pub exit: Exit,
    /// Whether the container has lost a process for want of memory.
    pub is_oom_killed: bool,
    /// Whether processes that it has left behind may still write to its streams; never said of the first process.
    pub is_output_held: bool,
}

impl Ended {
    /// Of what had no process to lose.
    pub fn by_itself(exit: Exit) -> Self {
        Self {
            exit,
            is_oom_killed: false,
            is_output_held: false,
        }
    }
}

impl Container {
    /// Builds a container up to its start. `sources` lead to the namespaces that `plan.shares` names, in its order.
    ///
    /// # Errors
    /// Names the step that failed; nothing is left then.
    pub async fn create(
        id: &str,
        plan: Plan,
        sources: &[Source<'_>],
        stdio: Stdio,
        reaper: &Reaper,
    ) -> Result<Arc<Self>, AgentError> {
        let cgroup = Cgroup::create(id, &plan.limits, &plan.device_program)?;
        match Self::create_first(&plan, sources, stdio, &cgroup, reaper).await {
            Ok((first, gate)) => {
                let container = Arc::new(Self {
                    id: id.to_owned(),
                    plan,
                    cgroup,
                    first,
                    gate: Mutex::new(Some(gate)),
                    further: Mutex::default(),
                });
                if !container.plan.namespaces.ends_with_first() {
                    tokio::spawn(Arc::clone(&container).end_with_first());
                }
                Ok(container)
            }
            Err(error) => {
                if let Err(failure) = cgroup.remove().await {
                    eprintln!("bulkhead-agent: {failure}");
                }
                Err(error)
            }
        }
    }

    async fn create_first(
        plan: &Plan,
        sources: &[Source<'_>],
        stdio: Stdio,
        cgroup: &Cgroup,
        reaper: &Reaper,
    ) -> Result<(Process, AgentEnd), AgentError> {
        let process = &plan.container.process;
        if let Some(parameters) = plan.container.linux.sysctl() {
            sysctl::set_network(parameters)?;
        }
        if let Some(owner) = plan.cgroup_owner() {
            cgroup.give_to(owner)?;
        }
        let shared: Vec<_> = plan
            .shares
            .iter()
            .zip(sources)
            .map(|(share, source)| share.of(*source))
            .collect();
        let terminal = stdio.is_terminal();
        let (files, carrier) = stdio.open(plan.user(process.user.uid()))?;
        let launched = launch(
            &Setup {
                role: Role::First {
                    plan,
                    shared: &shared,
                },
                process,
                capabilities: process.capabilities.as_ref(),
                seccomp: plan.seccomp.as_ref(),
                personality: plan.container.linux.personality().as_ref(),
                processors: [None, None],
                terminal,
                null: files.null(),
            },
            plan.namespaces.at_start(),
            cgroup,
            &files,
            reaper,
        )?;
        drop(files);
        let established = launched.establish(carrier, true).await;
        established.map_err(|failure| match cgroup.oom_kills() {
            0 => failure.into(),
            _ => Failure::new("linux.resources.memory.limit: too little for the process to be set up").into(),
        })
    }

    /// Without process ids of its own the kernel does not end the others with the first.
    async fn end_with_first(self: Arc<Self>) {
        if self.first.wait().await.is_ok()
            && let Err(error) = self.cgroup.kill()
        {
            eprintln!("bulkhead-agent: end container {}: {error}", self.id);
        }
    }

    /// Where its processes are, and its limits.
    ///
    /// # Errors
    /// When the first process has ended.
    pub fn cgroup(&self) -> Result<&Cgroup, AgentError> {
        self.check_alive()?;
        Ok(&self.cgroup)
    }

    fn check_alive(&self) -> Result<(), AgentError> {
        match self.first.exit() {
            None => Ok(()),
            Some(_) => Err(AgentError::State(format!("container \"{}\" has ended", self.id))),
        }
    }

    /// What leads to its namespaces.
    pub fn source(&self) -> Source<'_> {
        Source::Process(self.first.pidfd.as_fd())
    }

    /// The id of the first process in the guest.
    pub fn pid(&self) -> Pid {
        self.first.pid
    }

    /// Lets the first process execute its program.
    ///
    /// # Errors
    /// When it was started before, has ended, or cannot execute its program.
    pub async fn start(&self) -> Result<(), AgentError> {
        let gate = self
            .gate
            .lock()
            .expect("nothing panics while it is locked")
            .take();
        let gate = gate.ok_or_else(|| {
            AgentError::State(format!("container \"{}\" has been started already", self.id))
        })?;
        self.check_alive()?;
        gate.go();
        match gate.receive().await {
            Message::Failed(failure) => Err(failure.into()),
            _ => Ok(()),
        }
    }

    /// Runs a further process, in the given cgroup below the container's own unless that is empty.
    ///
    /// # Errors
    /// When the container has ended, the id is taken, or a step of the set-up fails.
    pub async fn exec(
        &self,
        id: &str,
        process: &ProcessSpec,
        cgroup: &str,
        stdio: Stdio,
        lifeline: Option<Stream>,
        reaper: &Reaper,
    ) -> Result<Pid, AgentError> {
        self.check_alive()?;
        {
            let mut further = self.further.lock().expect("nothing panics while it is locked");
            if further.contains_key(id) {
                return Err(AgentError::Exists(format!("process \"{id}\"")));
            }
            further.insert(id.to_owned(), None);
        }
        let result = self.launch_further(process, cgroup, stdio, reaper).await;
        let mut further = self.further.lock().expect("nothing panics while it is locked");
        match result {
            Ok(process) => {
                let (pid, process) = (process.pid, Arc::new(process));
                if let Some(lifeline) = lifeline {
                    process.hang_on(lifeline);
                }
                further.insert(id.to_owned(), Some(process));
                Ok(pid)
            }
            Err(error) => {
                further.remove(id);
                Err(error)
            }
        }
    }

    async fn launch_further(
        &self,
        process: &ProcessSpec,
        cgroup: &str,
        stdio: Stdio,
        reaper: &Reaper,
    ) -> Result<Process, AgentError> {
        check_apparmor(process, self.plan.namespaces)?;
        let affinity = process.exec_cpu_affinity.as_ref();
        let processors = |list: Option<&String>, name: &str| {
            list.map(|list| scheduling::parse_processors(&format!("process.execCPUAffinity.{name}"), list))
                .transpose()
        };
        let processors = [
            processors(affinity.and_then(|affinity| affinity.initial.as_ref()), "initial")?,
            processors(affinity.and_then(|affinity| affinity.r#final.as_ref()), "final")?,
        ];
        let below = (!cgroup.is_empty())
            .then(|| self.cgroup.below(cgroup))
            .transpose()?;
        let own = &self.plan.container.process.capabilities;
        let terminal = stdio.is_terminal();
        let (files, carrier) = stdio.open(self.plan.user(process.user.uid()))?;
        let launched = launch(
            &Setup {
                role: Role::Further {
                    namespaces: self.plan.namespaces,
                    first: self.first.pidfd.as_fd(),
                    first_pid: self.first.pid,
                    below: below.as_ref().map(AsFd::as_fd),
                },
                process,
                capabilities: process.capabilities.as_ref().or(own.as_ref()),
                seccomp: self.plan.seccomp.as_ref(),
                personality: self.plan.container.linux.personality().as_ref(),
                processors,
                terminal,
                null: files.null(),
            },
            UnshareFlags::empty(),
            &self.cgroup,
            &files,
            reaper,
        )?;
        drop(files);
        let (process, _) = launched.establish(carrier, false).await?;
        Ok(process)
    }

    /// Does something with the first process (the empty id) or a further one.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn with_process<T>(&self, id: &str, action: impl FnOnce(&Process) -> T) -> Result<T, AgentError> {
        if id.is_empty() {
            return Ok(action(&self.first));
        }
        Ok(action(&*self.further(id)?))
    }

    fn further(&self, id: &str) -> Result<Arc<Process>, AgentError> {
        let further = self.further.lock().expect("nothing panics while it is locked");
        further
            .get(id)
            .cloned()
            .flatten()
            .ok_or_else(|| AgentError::NoProcess {
                container: self.id.clone(),
                process: id.to_owned(),
            })
    }

    /// Waits for the end of a process.
    ///
    /// # Errors
    /// When there is none of that id.
    pub async fn wait(&self, id: &str) -> Result<Ended, AgentError> {
        let (exit, is_output_held) = if id.is_empty() {
            (self.first.wait().await?, false)
        } else {
            let process = self.further(id)?;
            (process.wait().await?, !process.output_ended().await)
        };
        Ok(Ended {
            exit,
            is_oom_killed: self.cgroup.oom_kills() > 0,
            is_output_held,
        })
    }

    /// Waits until more than `known` of its processes have been killed for want of memory, or it has ended. Answers how
    /// many have been.
    ///
    /// # Errors
    /// What reading the cgroup gives.
    pub async fn wait_for_oom_kill(&self, known: u64) -> Result<u64, AgentError> {
        tokio::select! {
            kills = self.cgroup.wait_for_oom_kill(known) => {
                kills.map_err(|error| AgentError::State(format!("watch container \"{}\": {error}", self.id)))
            }
            _ = self.first.wait() => Ok(self.cgroup.oom_kills()),
        }
    }

    /// Sends a signal to every process.
    ///
    /// # Errors
    /// When the number is no signal, and what reading the cgroup gives.
    pub fn signal_all(&self, number: u32) -> Result<(), AgentError> {
        let failed = |error| AgentError::State(format!("signal container \"{}\": {error}", self.id));
        if number == libc::SIGKILL.cast_unsigned() {
            return self.cgroup.kill().map_err(failed);
        }
        for pid in self
            .cgroup
            .processes()
            .map_err(failed)?
            .into_iter()
            .filter_map(Pid::from_raw)
        {
            // One that has ended meanwhile needs no signal.
            let _ = send_signal(pid, number)?;
        }
        Ok(())
    }

    /// Forgets a further process that has ended.
    ///
    /// # Errors
    /// When it runs, and when there is none of that id.
    pub fn delete_process(&self, id: &str) -> Result<(), AgentError> {
        if self.further(id)?.exit().is_none() {
            return Err(AgentError::State(format!(
                "process \"{id}\" of container \"{}\" is still running",
                self.id
            )));
        }
        self.further
            .lock()
            .expect("nothing panics while it is locked")
            .remove(id);
        Ok(())
    }

    /// Removes what the container has in the guest.
    ///
    /// # Errors
    /// When it runs, and when its cgroup cannot be removed.
    pub async fn delete(&self) -> Result<(), AgentError> {
        if self.first.exit().is_none() {
            return Err(AgentError::State(format!(
                "container \"{}\" is still running",
                self.id
            )));
        }
        Ok(self.cgroup.remove().await?)
    }
}
