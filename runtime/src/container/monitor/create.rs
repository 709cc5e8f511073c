//! From nothing to a container at its start gate.

use std::{io, os::fd::AsFd};

use rustix::termios::Winsize;
use tokio::sync::mpsc;

use super::{
    Caller, Monitor,
    requests::{self, Asked},
    room::MemoryLimit,
    voice::Voice,
};
use crate::{
    container::{Failure, Notice, Place, Stage, Streams, UNKNOWN_SIZE, failure::In, hooks},
    metrics,
    oci::{GuestPaths, for_guest},
    sandbox::{
        AppArmorError, AppArmorProfile, DiskError, Disks, Machine, NewContainer, NewState, Owner, Patience,
        ProcessIdentity, Sandbox, SharedFiles, SharedFolder, StartError, Starting, State, StateFolder,
        Status, StorageError, leave_mount_namespace,
    },
};

/// A container that waits at its start gate.
pub struct Created {
    /// Where it is.
    pub sandbox: Sandbox,
    /// Connected, and carrying nothing yet.
    pub streams: Streams,
    /// Its record, as saved.
    pub state: State,
    /// What is asked of it.
    pub requests: mpsc::Receiver<Asked>,
}

impl Monitor {
    /// Makes the sandbox and the container. None when the caller has gone while it had hooks to run.
    pub(super) async fn create(
        &self,
        voice: &mut Voice,
        caller: &Caller,
    ) -> Result<Option<Created>, Failure> {
        self.stopwatch.enter(Stage::Prepare);
        let mut state = self.first_state().in_stage(Stage::Prepare)?;
        self.folder.save(&state).in_stage(Stage::Prepare)?;
        if hooks::any_before_creation(&self.bundle.spec.hooks) {
            voice.say(&Notice::Prepared).await;
            if !caller.says_go().await {
                return Ok(None);
            }
        }
        let listener = self
            .folder
            .listen(StateFolder::MONITOR)
            .in_stage(Stage::Prepare)?;

        let (sandbox, streams) = if self.bundle.spec.is_pod() {
            (self.make_pod().await?, Streams::default())
        } else {
            self.make_container(&state).await?
        };
        if self.place.owner().is_none() {
            metrics::server::start(&self.folder).in_stage(Stage::CreateContainer)?;
        }
        let requests = requests::take(listener).in_stage(Stage::CreateContainer)?;
        self.stopwatch.leave();
        state.stages = self.stopwatch.took();
        state.status = Status::Created;
        self.folder.save(&state).in_stage(Stage::CreateContainer)?;
        Ok(Some(Created {
            sandbox,
            streams,
            state,
            requests,
        }))
    }

    /// Makes the sandbox, or enters it, and the container in it.
    async fn make_container(&self, state: &State) -> Result<(Sandbox, Streams), Failure> {
        let id = self.folder.id().as_str();
        let folder = SharedFiles::folder_name(self.folder.id());
        let paths = GuestPaths::new(&folder);
        let profile = self.profile().in_stage(Stage::Prepare)?;
        self.stopwatch.enter(Stage::PrepareStorage);
        let files = SharedFiles::copy(&folder, &self.bundle).in_stage(Stage::PrepareStorage)?;
        let mut sandbox = match self.place.owner() {
            None => self.boot(Some(&files)).await?,
            Some(owner) => self.join(&files, owner).await?,
        };

        self.stopwatch.enter(Stage::CreateContainer);
        // Until the guest knows who has them, nobody is to take them away.
        let disks = self.attach_disks().await.in_stage(Stage::CreateContainer)?;
        let (agent, guest) = (sandbox.agent().clone(), sandbox.guest());
        let connect = async move {
            Streams::connect(&guest, self.window())
                .await
                .map_err(StartError::Stream)
        };
        let streams = sandbox.attempt(connect).await.in_stage(Stage::CreateContainer)?;
        if let Some(profile) = profile {
            sandbox
                .attempt(agent.load_profile(profile))
                .await
                .in_stage(Stage::CreateContainer)?;
        }
        let spec = for_guest(
            self.bundle.disks.for_guest(self.bundle.document.clone(), id),
            self.bundle.sources_in_guest(paths),
            &self.shares,
            paths,
        )
        .to_string()
        .into_bytes();
        let container = NewContainer {
            spec,
            state: hooks::state(state, Status::Creating),
            bundle: &self.bundle,
            disk_slots: disks.as_ref().map(|(_, slots)| slots.clone()).unwrap_or_default(),
            paths,
            submounts: files.submounts,
            stdio: streams.description(),
        };
        sandbox
            .attempt(agent.create(id, container))
            .await
            .in_stage(Stage::CreateContainer)?;
        drop(disks);

        self.show_files().in_stage(Stage::CreateContainer)?;
        Ok((sandbox, streams))
    }

    /// Makes the sandbox of a pod, and the namespaces that its containers will share.
    async fn make_pod(&self) -> Result<Sandbox, Failure> {
        let mut sandbox = self.boot(None).await?;
        self.stopwatch.enter(Stage::CreateContainer);
        let agent = sandbox.agent().clone();
        let id = self.folder.id().as_str();
        let spec = for_guest(self.bundle.document.clone(), Vec::new(), &[], GuestPaths::new(id));
        sandbox
            .attempt(agent.create_pod(id, spec.to_string().into_bytes()))
            .await
            .in_stage(Stage::CreateContainer)?;
        Ok(sandbox)
    }

    /// Starts the container's own microVM, with its files in the shared folder if it has any.
    async fn boot(&self, files: Option<&SharedFiles>) -> Result<Sandbox, Failure> {
        let shared = SharedFolder::create(&self.folder).in_stage(Stage::PrepareStorage)?;
        if let Some(files) = files {
            files.place(shared.path()).in_stage(Stage::PrepareStorage)?;
        }
        self.stopwatch.enter(Stage::StartVmm);
        let machine = Machine::open(&self.config, &self.bundle).in_stage(Stage::StartVmm)?;
        tracing::debug!(size = ?machine.size, "start VMM");
        let starting = Starting::launch(machine, &self.folder, &shared, self.cgroup.as_fd())
            .in_stage(Stage::StartVmm)?;
        self.stopwatch.enter(Stage::BootGuest);
        let patience = Patience {
            boot_seconds: self.config.boot_timeout_seconds,
            agent_seconds: self.config.agent_timeout_seconds,
        };
        let sandbox = Sandbox::boot(starting, patience)
            .await
            .in_stage(Stage::BootGuest)?;
        tracing::debug!("agent ready");
        Ok(sandbox)
    }

    /// The profile that confines the workload, if one does.
    fn profile(&self) -> Result<Option<AppArmorProfile>, AppArmorError> {
        let process = self.bundle.spec.process.as_ref();
        let name = process.and_then(|process| process.apparmor_profile.as_deref());
        AppArmorProfile::find(&self.config, name)
    }

    /// Puts the container's files into the shared folder of another one's microVM, which grows if it is too small for both.
    async fn join(&self, files: &SharedFiles, owner: &Owner) -> Result<Sandbox, Failure> {
        owner
            .in_shared_folder(|shared| files.place(shared))
            .in_stage(Stage::PrepareStorage)?;
        let sandbox = Sandbox::join(&owner.folder)
            .await
            .in_stage(Stage::CreateContainer)?;
        if let Some(resources) = self.bundle.document.pointer("/linux/resources") {
            let (growth, cgroup) = (sandbox.growth(), &owner.state.cgroup);
            self.make_room(&growth, cgroup, resources.clone(), MemoryLimit::Lenient)
                .await
                .in_stage(Stage::CreateContainer)?;
        }
        Ok(sandbox)
    }

    /// Gives the microVM that the container has joined the container's disks; its own one has had them from the start. Returns
    /// the slots in which they are.
    async fn attach_disks(&self) -> Result<Option<(Disks, Vec<u32>)>, DiskError> {
        let wanted = &self.bundle.disks.disks;
        let Some(owner) = self.place.owner().filter(|_| !wanted.is_empty()) else {
            return Ok(None);
        };
        let disks = Disks::of(owner).await?;
        let mut slots = Vec::with_capacity(wanted.len());
        for disk in wanted {
            slots.push(disks.attach(disk).await?);
        }
        Ok(Some((disks, slots)))
    }

    /// Lets those who enter this process's mount namespace find the container's files there, and not the host's.
    fn show_files(&self) -> Result<(), StorageError> {
        if self.place.owner().is_some() {
            leave_mount_namespace()?;
        }
        SharedFiles::copy(self.folder.id().as_str(), &self.bundle)?.cover_root(&self.bundle)
    }

    fn first_state(&self) -> io::Result<State> {
        let network = self.bundle.spec.linux.network();
        let owner = self.place.owner();
        let cgroup = match &self.place {
            Place::Own(cgroup) => cgroup.clone(),
            Place::Joined(owner) => owner.state.cgroup.clone(),
        };
        Ok(State::creating(NewState {
            id: self.folder.id().clone(),
            sandbox: owner.map_or(self.folder.id(), |owner| &owner.state.id).clone(),
            monitor: ProcessIdentity::current()?,
            bundle: self.bundle.folder.clone(),
            rootfs: self.bundle.rootfs.clone(),
            cgroup,
            network: network
                .map(|namespace| namespace.path.as_str())
                .filter(|path| !path.is_empty())
                .map(Into::into),
            annotations: self.bundle.spec.annotations.clone(),
        }))
    }

    /// The first size of the workload's terminal, if it is to have one: as configured, or as the host's side is.
    fn window(&self) -> Option<Winsize> {
        if !self.attachment.has_terminal() {
            return None;
        }
        let configured = self
            .bundle
            .spec
            .process
            .as_ref()
            .and_then(|process| process.console_size)
            .and_then(crate::oci::ConsoleSize::window);
        Some(
            configured
                .or_else(|| self.attachment.window())
                .unwrap_or(UNKNOWN_SIZE),
        )
    }
}
