//! From a container at its start gate to its end.

use std::{error::Error, sync::Arc};

use bulkhead_agent_protocol::messages::WaitResponse;
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    Monitor, Signals, create::Created, forwarding::Forwarding, limits::Limits, room::MemoryLimit,
    voice::Voice, volumes::Watcher,
};
use crate::{
    container::{
        Failure, Notice, Stage, Streams,
        control::{ControlError, Request, Response},
        failure::In,
        streams::Copying,
    },
    oci::{GuestPaths, Volume, drop_host_resources, volume_data},
    sandbox::{
        Agent, Exit, Growth, GuestSocket, Limits as HostLimits, Network, Sandbox, SharedFiles, StartError,
        State, Status,
    },
    signals,
};

/// The signal that nothing survives; a workload whose virtual machine is gone has died of it.
const KILL: i32 = libc::SIGKILL;

/// Whether there is still a guest to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    Alive,
    Gone,
}

/// A container that is being watched over.
struct Watched<'a> {
    monitor: &'a Monitor,
    agent: Agent,
    state: State,
    /// Until the program runs.
    streams: Option<Streams>,
    /// From then on.
    copying: Option<Copying>,
    limits: Limits,
    growth: Growth,
    voice: Voice,
    /// The guest's ties to the network namespace, if the container has one of its own.
    network: Option<Network>,
    /// The way to the guest, for what is forwarded.
    guest: Arc<GuestSocket>,
    /// Of a pod that runs.
    forwarding: Option<Forwarding>,
}

impl Monitor {
    /// Watches over the container until its end. How it ended is then in its record, and all of its output passed on.
    pub(super) async fn supervise(
        &self,
        created: Created,
        voice: Voice,
        signals: &Signals,
        go: &Notify,
    ) -> Result<Exit, Failure> {
        let Created {
            mut sandbox,
            streams,
            state,
            mut requests,
        } = created;
        let mut container = Watched {
            monitor: self,
            agent: sandbox.agent().clone(),
            state,
            streams: Some(streams),
            copying: None,
            limits: Limits::of(&self.bundle.document),
            growth: sandbox.growth(),
            voice,
            network: self.bundle.spec.linux.network().and_then(|_| sandbox.network()),
            guest: sandbox.guest(),
            forwarding: None,
        };
        let (exit, guest) = {
            let volumes = Watcher::start(&self.bundle).in_stage(Stage::RunContainer)?;
            let agent = sandbox.agent().clone();
            let hangs = sandbox.pulse().stopped();
            let end = sandbox.attempt(agent.wait(self.folder.id().as_str()));
            tokio::pin!(end, hangs);
            loop {
                let turn = async {
                    tokio::select! {
                        biased;
                        end = &mut end => return Ok(Some(end)),
                        signal = signals.next() => container.pass_on(signal.in_stage(Stage::RunContainer)?).await,
                        () = go.notified() => {
                            match container.start().await {
                                Ok(()) => container.voice.say(&Notice::Running).await,
                                Err(failure) => {
                                    container.voice.complain(&failure).await;
                                    container.give_up().await;
                                }
                            }
                        }
                        changed = volumes.changed() => container.replace(&changed).await,
                        Some(asked) = requests.recv() => {
                            let response = container.carry_out(&asked.request).await;
                            asked.answer(response);
                        }
                    }
                    Ok(None)
                };
                // Whatever is being done with the guest, it may not answer any more.
                let end = tokio::select! {
                    biased;
                    end = turn => end?,
                    hangs = &mut hangs => Some(Err(hangs)),
                };
                if let Some(end) = end {
                    break container.ended(end).await;
                }
            }
        };
        if guest == Guest::Gone {
            // One that hangs is not gone yet, and holds its streams.
            sandbox.kill();
        }
        tokio::select! {
            biased;
            () = container.drain(&mut sandbox, guest) => {}
            // The workload has gone; who interrupts now means the copying.
            _ = signals.interruption() => {}
        }
        self.end(sandbox, container, exit).await
    }

    /// Lets the sandbox go, and then says in the record that the container is stopped.
    async fn end(&self, sandbox: Sandbox, mut container: Watched<'_>, exit: Exit) -> Result<Exit, Failure> {
        let left = match self.place.owner() {
            None => sandbox.end().await.in_stage(Stage::RunContainer),
            Some(owner) => owner.evict(self.folder.id()).await.in_stage(Stage::RunContainer),
        };
        if let Err(failure) = left {
            container.voice.complain(&failure).await;
        }
        if let Some(network) = &mut container.network
            && let Err(failure) = network.detach().await.in_stage(Stage::AttachNetwork)
        {
            container.voice.complain(&failure).await;
        }
        container.state.status = Status::Stopped;
        container.state.exit = Some(exit);
        self.folder.save(&container.state).in_stage(Stage::RunContainer)?;
        Ok(exit)
    }
}

impl Watched<'_> {
    async fn carry_out(&mut self, request: &Request) -> Response {
        let done = match request {
            Request::Start {} => self.start().await.map_err(|failure| failure.to_string()),
            Request::Pause {} => self.pause().await,
            Request::Resume {} => self.resume().await,
            Request::Update { resources } => self.update(resources).await,
        };
        match done {
            Ok(()) => Response::Done {},
            Err(message) => Response::Error { message },
        }
    }

    /// Opens the start gate. Returns when the program has been executed.
    async fn start(&mut self) -> Result<(), Failure> {
        if self.streams.is_some()
            && let Some(network) = &mut self.network
        {
            self.monitor.stopwatch.enter(Stage::AttachNetwork);
            // Only now: some callers set the namespace up when the container has been created.
            network.attach().await.in_stage(Stage::AttachNetwork)?;
            if self.monitor.bundle.spec.is_pod() {
                self.forward_ports();
            }
        }
        let Some(streams) = self.streams.take() else {
            return Err(StartError::StartedAlready).in_stage(Stage::StartContainer);
        };
        self.monitor.stopwatch.enter(Stage::StartContainer);
        let started = self.agent.start(self.state.id.as_str()).await;
        started
            .map_err(StartError::from)
            .in_stage(Stage::StartContainer)?;
        tracing::debug!("program runs");
        self.copying = Some(streams.copy().in_stage(Stage::StartContainer)?);
        self.monitor.stopwatch.leave();
        self.state.stages = self.monitor.stopwatch.took();
        self.state.status = Status::Running;
        self.monitor
            .folder
            .save(&self.state)
            .in_stage(Stage::StartContainer)
    }

    /// Forwards what connects to the pod by the loopback interface. A node where that cannot be done runs pods all the same.
    fn forward_ports(&mut self) {
        match Forwarding::start(self.agent.clone(), Arc::clone(&self.guest)) {
            Ok(forwarding) => self.forwarding = Some(forwarding),
            Err(error) => tracing::warn!(%error, "the pod's ports cannot be forwarded"),
        }
    }

    /// Ends a container that nobody will try to start again.
    async fn give_up(&self) {
        // One that has ended is what is wanted.
        let _ = self
            .agent
            .signal(self.state.id.as_str(), KILL.unsigned_abs(), true)
            .await;
    }

    /// Freezes every process. Returns when all stand still.
    async fn pause(&mut self) -> Result<(), String> {
        if self.state.status == Status::Paused {
            return Err(ControlError::NotRunning.to_string());
        }
        let paused = self.agent.pause(self.state.id.as_str()).await;
        paused.map_err(|error| error.to_string())?;
        self.record(Status::Paused)
    }

    /// Lets them go on.
    async fn resume(&mut self) -> Result<(), String> {
        if self.state.status != Status::Paused {
            return Err(ControlError::NotPaused.to_string());
        }
        let resumed = self.agent.resume(self.state.id.as_str()).await;
        resumed.map_err(|error| error.to_string())?;
        self.record(match self.streams {
            Some(_) => Status::Created,
            None => Status::Running,
        })
    }

    fn record(&mut self, status: Status) -> Result<(), String> {
        self.state.status = status;
        let saved = self.monitor.folder.save(&self.state);
        saved.map_err(|error| error.to_string())
    }

    /// Changes limits, on the host and in the guest.
    async fn update(&mut self, resources: &Value) -> Result<(), String> {
        let limits = self.limits.with(resources);
        let mut sections = limits.about(resources);
        let memory_limit = if limits.memory() == self.limits.memory() {
            MemoryLimit::Lenient
        } else {
            MemoryLimit::Strict
        };
        self.monitor
            .make_room(&self.growth, &self.state.cgroup, sections.clone(), memory_limit)
            .await
            .map_err(|error| error.to_string())?;
        self.limit_on_host(&limits).await?;
        drop_host_resources(&mut sections);
        let sections = sections.to_string().into_bytes();
        if let Err(error) = self.agent.update(self.state.id.as_str(), sections).await {
            // Refused as a whole: the host goes back to what the guest still has.
            self.limit_on_host(&self.limits).await?;
            return Err(error.to_string());
        }
        self.limits = limits;
        Ok(())
    }

    async fn limit_on_host(&self, limits: &Limits) -> Result<(), String> {
        let text = |error: &dyn Error| error.to_string();
        let resources = limits.view().map_err(|e| text(&e))?;
        let limits = if self.state.owns_sandbox() {
            HostLimits::of(&resources)
        } else {
            HostLimits::of_joined(&resources)
        };
        let (cgroup, limits) = (self.state.cgroup.clone(), limits.map_err(|e| text(&e))?);
        // systemd may take its time.
        let updated = tokio::task::spawn_blocking(move || cgroup.update(&limits)).await;
        updated.map_err(|e| text(&e))?.map_err(|e| text(&e))
    }

    /// Has the guest replace its copies of volumes.
    async fn replace(&self, volumes: &[&Volume]) {
        let folder = SharedFiles::folder_name(&self.state.id);
        for volume in volumes {
            // One without content is on its way to being removed.
            let Some(data) = volume_data(&volume.path) else {
                continue;
            };
            let replaced = self.agent.update_volume(volume, GuestPaths::new(&folder), data);
            if let Err(error) = replaced.await {
                tracing::error!(%error, "volume {} is out of date in the guest", volume.path.display());
            }
        }
    }

    /// Passes a signal on to the program; the terminal's change of size becomes the guest's.
    async fn pass_on(&self, signal: i32) {
        let id = self.state.id.as_str();
        let passed = if signal == signals::WINDOW_CHANGED {
            match self.monitor.attachment.window() {
                Some(size) => {
                    self.agent
                        .resize(id, size.ws_row.into(), size.ws_col.into())
                        .await
                }
                None => Ok(()),
            }
        } else {
            self.agent.signal(id, signal.unsigned_abs(), false).await
        };
        if let Err(error) = passed {
            tracing::debug!(signal, %error, "signal not passed on");
        }
    }

    /// What the end of the first process, or of what carried it, means for the stand-in.
    async fn ended(&mut self, end: Result<WaitResponse, StartError>) -> (Exit, Guest) {
        match end {
            Ok(end) => {
                tracing::debug!(exit_code = end.exit_code, signal = end.signal, "program ended");
                self.state.oom_killed = end.oom_killed;
                let exit = match i32::try_from(end.signal) {
                    Ok(0) => Exit::Code(i32::try_from(end.exit_code).unwrap_or(i32::MAX)),
                    signal => Exit::Signal(signal.unwrap_or(KILL)),
                };
                (exit, Guest::Alive)
            }
            // The sandbox that it had joined has ended, which ends its containers.
            Err(error) if error.is_end() && self.monitor.place.owner().is_some() => {
                tracing::debug!(%error, "sandbox ended");
                (Exit::Signal(KILL), Guest::Gone)
            }
            Err(error) => {
                let failure = Failure {
                    stage: Stage::RunContainer,
                    cause: error.into(),
                };
                self.voice.complain(&failure).await;
                (Exit::Signal(KILL), Guest::Gone)
            }
        }
    }

    /// Waits until the last byte of output has been passed on.
    async fn drain(&mut self, sandbox: &mut Sandbox, guest: Guest) {
        let Some(copying) = self.copying.take() else {
            return;
        };
        let drained = async {
            let drained = copying.drained().await;
            if guest == Guest::Gone {
                // That has been said, and what came out of it until then is all there is.
                return Ok(());
            }
            drained.in_stage(Stage::RunContainer)?;
            // A stream ends with its guest, too, and is then not whole. A guest that still answers has sent it all.
            let agent = sandbox.agent().clone();
            let answer = sandbox.attempt(agent.wait(self.state.id.as_str())).await;
            answer.in_stage(Stage::RunContainer).map(drop)
        };
        if let Err(failure) = drained.await {
            self.voice.complain(&failure).await;
        }
    }
}
