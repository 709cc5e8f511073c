//! A container as containerd knows it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bulkhead_agent_protocol::messages::CgroupFile;
use containerd_shim_protos::{
    api::{CreateTaskRequest, ExecProcessRequest, Status},
    events::task::{
        TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
        TaskResumed, TaskStart,
    },
};
use protobuf::MessageField;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    bundle::BundleConfig,
    context::Context,
    error::Error,
    lock,
    logger::Origin,
    metrics::timestamp,
    options::Options,
    process::{Process, Progress},
    reaper::End,
    rootfs::Rootfs,
    standin::Commands,
    stream_names::StreamNames,
    streams::{Rest, Streams},
};
use crate::{
    container::{
        control::{ControlError, Request, ask},
        hooks,
    },
    oci::changed_limits,
    sandbox::{
        Agent, AgentError, Driver, Exit, GuestSocket, Id, State, StateFolder, Status as ContainerStatus,
    },
};

/// How long the stand-ins of further processes may take to end when their container has.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// How long the output of a process that has been killed may take to be read by somebody.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

const KILL: u32 = libc::SIGKILL.unsigned_abs();

/// The largest signal's number.
const LAST_SIGNAL: u32 = 64;

/// A container.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its bundle's folder.
    pub bundle: PathBuf,
    /// Its first process.
    pub init: Arc<Process>,
    context: Arc<Context>,
    commands: Commands,
    folder: StateFolder,
    /// Of the container whose monitor owns the microVM.
    sandbox: StateFolder,
    owns_sandbox: bool,
    further: Mutex<HashMap<String, Arc<Further>>>,
    /// How many further processes there have been.
    count: AtomicU64,
    told_of_oom: AtomicBool,
    rootfs: Mutex<Option<Rootfs>>,
}

/// A further process.
#[derive(Debug)]
struct Further {
    process: Arc<Process>,
    /// What the agent calls it: unlike any that was there before.
    name: String,
    /// The process object, JSON.
    spec: Vec<u8>,
    pid_file: PathBuf,
}

impl Task {
    /// Makes the container up to its start gate.
    ///
    /// # Errors
    /// Why it is not there. Nothing of it is left then.
    pub async fn create(context: &Arc<Context>, request: CreateTaskRequest) -> Result<Arc<Self>, Error> {
        if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
            return Err(Error::NoSnapshots("restore"));
        }
        let id = Id::try_from(request.id.clone())?;
        let bundle = PathBuf::from(&request.bundle);
        let config = BundleConfig::load(&bundle).map_err(Error::io("read config.json"))?;
        let options = Options::read(&request.options).map_err(|error| Error::Invalid {
            what: "options",
            problem: error.to_string(),
        })?;
        let driver = match options.systemd_cgroup {
            true => Driver::Systemd,
            false => config.driver(),
        };
        let commands = Commands {
            config: options.config,
            ..context.commands.clone()
        };
        let names = StreamNames {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        // A container that only holds a sandbox runs nothing, and needs no files.
        let mounts = match config.is_sandbox() {
            true => &[],
            false => request.rootfs.as_slice(),
        };
        let rootfs = Rootfs::mount(mounts, bundle.join("rootfs"))?;
        let origin = Origin {
            id: id.as_str(),
            namespace: &context.namespace,
        };
        let streams = Streams::open(&names, origin, &context.reaper).await?;
        let standin = commands
            .create(id.as_str(), &bundle, driver, streams.descriptors)
            .await?;
        let folder = StateFolder::open(&commands.root, &id)?;
        let state = folder.load()?.ok_or_else(|| Error::NoTask(id.to_string()))?;
        let owns_sandbox = state.owns_sandbox();
        if owns_sandbox && let Err(error) = state.cgroup.join() {
            // It is counted elsewhere then, and works all the same.
            tracing::warn!(%error, "the shim stays out of the sandbox's cgroup");
        }
        let created = Progress::Created { pid: standin.pid };
        let task = Arc::new(Self {
            id: id.to_string(),
            init: Arc::new(Process::new(names, created, streams.rest)),
            context: Arc::clone(context),
            commands,
            sandbox: folder.sibling(&state.sandbox)?,
            folder,
            owns_sandbox,
            further: Mutex::default(),
            count: AtomicU64::new(0),
            told_of_oom: AtomicBool::new(false),
            rootfs: Mutex::new(Some(rootfs)),
            bundle,
        });
        task.tell_of_creation(request.rootfs, request.bundle);
        tokio::spawn(Arc::clone(&task).await_end(standin.end));
        Ok(task)
    }

    fn tell_of_creation(&self, rootfs: Vec<containerd_shim_protos::types::mount::Mount>, bundle: String) {
        let streams = &self.init.streams;
        self.context.events.publish(&TaskCreate {
            container_id: self.id.clone(),
            bundle,
            rootfs,
            io: MessageField::some(TaskIO {
                stdin: streams.stdin.clone(),
                stdout: streams.stdout.clone(),
                stderr: streams.stderr.clone(),
                terminal: streams.terminal,
                ..TaskIO::default()
            }),
            pid: self.init.progress().pid(),
            ..TaskCreate::default()
        });
    }

    /// Opens the start gate. Returns when the program has been executed.
    ///
    /// # Errors
    /// It has been opened, or the program cannot be executed.
    pub async fn start(self: &Arc<Self>) -> Result<u32, Error> {
        let _order = self.init.order.lock().await;
        let pid = match self.init.progress() {
            Progress::Created { pid } => pid,
            progress => return Err(self.wrong_status("start", progress.word())),
        };
        if hooks::of(&self.folder).poststart.is_empty() {
            self.ask(Request::Start {}).await?;
        } else {
            self.commands.start(&self.id).await?;
        }
        self.init.advance(Progress::Running { pid });
        self.context.events.publish(&TaskStart {
            container_id: self.id.clone(),
            pid: pid.unsigned_abs(),
            ..TaskStart::default()
        });
        tokio::spawn(Arc::clone(self).watch_memory());
        Ok(pid.unsigned_abs())
    }

    /// Tells of the end when it comes.
    async fn await_end(self: Arc<Self>, end: oneshot::Receiver<End>) {
        // The reaper tells of every child.
        let Ok(end) = end.await else { return };
        let _order = self.init.order.lock().await;
        self.let_further_end().await;
        if self.record().is_ok_and(|record| record.oom_killed) {
            self.tell_of_oom();
        }
        let pid = self.init.progress().pid();
        self.tell_of_end(&self.id, pid, end);
        self.init.advance(Progress::Ended {
            pid: i32::try_from(pid).unwrap_or_default(),
            end,
        });
    }

    /// Waits until what went down with the container has been told.
    async fn let_further_end(&self) {
        let further: Vec<_> = lock(&self.further).values().cloned().collect();
        let ended = async {
            for further in further {
                if matches!(further.process.progress(), Progress::Running { .. }) {
                    further.process.ended().await;
                }
            }
        };
        if tokio::time::timeout(LAST_STEPS, ended).await.is_err() {
            tracing::warn!(container = self.id, "further processes take long to end");
        }
    }

    fn tell_of_end(&self, process: &str, pid: u32, end: End) {
        self.context.events.publish(&TaskExit {
            container_id: self.id.clone(),
            id: process.to_owned(),
            pid,
            exit_status: exit_status(end.exit),
            exited_at: MessageField::some(timestamp(end.at)),
            ..TaskExit::default()
        });
    }

    /// Tells when the guest kills a process for want of memory.
    async fn watch_memory(self: Arc<Self>) {
        let watch = async {
            let agent = self.agent().await?;
            let mut known = 0;
            loop {
                let count = agent.wait_oom(&self.id, known).await?;
                if count <= known {
                    return Ok::<_, Error>(());
                }
                known = count;
                self.tell_of_oom();
            }
        };
        tokio::select! {
            watched = watch => {
                if let Err(error) = watched {
                    tracing::debug!(container = self.id, %error, "memory no longer watched");
                }
            }
            _ = self.init.ended() => {}
        }
    }

    fn tell_of_oom(&self) {
        if !self.told_of_oom.swap(true, Ordering::Relaxed) {
            self.context.events.publish(&TaskOOM {
                container_id: self.id.clone(),
                ..TaskOOM::default()
            });
        }
    }

    /// Removes what is left of the container. Answers its pid and its end.
    ///
    /// # Errors
    /// It runs, or not all of it could be removed.
    pub async fn delete(&self) -> Result<(u32, End), Error> {
        if let progress @ Progress::Running { .. } = self.init.progress() {
            return Err(self.wrong_status("delete", progress.word()));
        }
        if self.owns_sandbox
            && let Ok(record) = self.record()
        {
            // What is in the cgroup at its removal is killed.
            record.cgroup.leave()?;
        }
        self.commands.delete(&self.id).await?;
        // One that was never started has been ended by it.
        let end = self.init.ended().await;
        lock(&self.rootfs).take();
        self.init.close_input();
        self.init.finish_loggers().await;
        let pid = self.init.progress().pid();
        self.context.events.publish(&TaskDelete {
            container_id: self.id.clone(),
            pid,
            exit_status: exit_status(end.exit),
            exited_at: MessageField::some(timestamp(end.at)),
            ..TaskDelete::default()
        });
        Ok((pid, end))
    }

    /// A process; the first one has no name.
    ///
    /// # Errors
    /// [`Error::NoProcess`].
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, Error> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        Ok(Arc::clone(&self.further(exec_id)?.process))
    }

    fn further(&self, exec_id: &str) -> Result<Arc<Further>, Error> {
        let further = lock(&self.further).get(exec_id).cloned();
        further.ok_or_else(|| Error::NoProcess {
            task: self.id.clone(),
            process: exec_id.to_owned(),
        })
    }

    /// Takes note of a further process, which can be started then.
    ///
    /// # Errors
    /// The name is taken or cannot be one, the container has ended, or the description is no JSON object.
    pub fn add(&self, request: ExecProcessRequest) -> Result<(), Error> {
        let exec_id = request.exec_id;
        // It is part of a file's name.
        if exec_id.parse::<Id>().is_err() {
            return Err(Error::Invalid {
                what: "exec_id",
                problem: format!("{exec_id:?} is no name"),
            });
        }
        self.init.ensure_alive("execute a process in", &self.id)?;
        let invalid = |problem: String| Error::Invalid {
            what: "spec",
            problem,
        };
        let mut spec: Value =
            serde_json::from_slice(&request.spec.value).map_err(|error| invalid(error.to_string()))?;
        let members = spec
            .as_object_mut()
            .ok_or_else(|| invalid("is no JSON object".to_owned()))?;
        members.insert("terminal".to_owned(), request.terminal.into());
        let names = StreamNames {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let further = Further {
            process: Arc::new(Process::new(names, Progress::Added, Rest::default())),
            name: format!("{exec_id}.{}", self.count.fetch_add(1, Ordering::Relaxed)),
            spec: spec.to_string().into_bytes(),
            pid_file: self.bundle.join(format!("{exec_id}.pid")),
        };
        {
            let mut all = lock(&self.further);
            if all.contains_key(&exec_id) {
                return Err(Error::Exists(format!("process {exec_id} of task {}", self.id)));
            }
            all.insert(exec_id.clone(), Arc::new(further));
        }
        self.context.events.publish(&TaskExecAdded {
            container_id: self.id.clone(),
            exec_id,
            ..TaskExecAdded::default()
        });
        Ok(())
    }

    /// Starts a further process. Returns when its program has been executed.
    ///
    /// # Errors
    /// It has been started, or the program cannot be executed.
    pub async fn start_further(self: &Arc<Self>, exec_id: &str) -> Result<u32, Error> {
        let further = self.further(exec_id)?;
        let process = &further.process;
        let _order = process.order.lock().await;
        if process.progress() != Progress::Added {
            return Err(self.wrong_status("start a process again", process.progress().word()));
        }
        let context = &self.context;
        let origin = Origin {
            id: exec_id,
            namespace: &context.namespace,
        };
        let streams = Streams::open(&process.streams, origin, &context.reaper).await?;
        let standin = self
            .commands
            .exec(
                &self.id,
                &further.name,
                &further.spec,
                &further.pid_file,
                streams.descriptors,
            )
            .await?;
        process.keep(streams.rest);
        let pid = standin.pid;
        process.advance(Progress::Running { pid });
        context.events.publish(&TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            pid: pid.unsigned_abs(),
            ..TaskExecStarted::default()
        });
        let (task, exec_id, process) = (Arc::clone(self), exec_id.to_owned(), Arc::clone(process));
        tokio::spawn(async move {
            // The reaper tells of every child.
            let Ok(end) = standin.end.await else { return };
            let _order = process.order.lock().await;
            task.tell_of_end(&exec_id, pid.unsigned_abs(), end);
            process.advance(Progress::Ended { pid, end });
        });
        Ok(pid.unsigned_abs())
    }

    /// Forgets a further process. Answers its pid, and its end if it was ever started.
    ///
    /// # Errors
    /// It runs.
    pub async fn delete_further(&self, exec_id: &str) -> Result<(u32, Option<End>), Error> {
        let further = self.further(exec_id)?;
        let progress = further.process.progress();
        if let Progress::Running { .. } = progress {
            return Err(self.wrong_status("delete a process", progress.word()));
        }
        further.process.close_input();
        further.process.finish_loggers().await;
        lock(&self.further).remove(exec_id);
        // It is not there if the process was never started.
        let _ = std::fs::remove_file(&further.pid_file);
        Ok((progress.pid(), progress.end()))
    }

    /// Sends a signal to a process, or to `all` of the container's.
    ///
    /// # Errors
    /// [`Error::Finished`], or there is no such signal.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), Error> {
        if !(1..=LAST_SIGNAL).contains(&signal) {
            return Err(Error::Signal(signal));
        }
        let process = self.process(exec_id)?;
        let what = if exec_id.is_empty() { &self.id } else { exec_id };
        process.ensure_alive("signal", what)?;
        let sent = async {
            let agent = self.agent().await?;
            if exec_id.is_empty() {
                agent.signal(&self.id, signal, all).await?;
            } else {
                let name = self.further(exec_id)?.name.clone();
                agent.process(&self.id, &name).signal(signal).await?;
            }
            Ok::<_, Error>(())
        };
        let sent = match sent.await {
            // It has ended, and its guest perhaps with it.
            Err(Error::Agent(AgentError::Refused(_) | AgentError::Lost(_))) => {
                Err(Error::Finished(what.to_owned()))
            }
            sent => sent,
        };
        if signal == KILL {
            tokio::spawn(end_output(process));
        }
        sent
    }

    /// Tells a process's terminal its size.
    ///
    /// # Errors
    /// It has none, or has ended.
    pub async fn resize(&self, exec_id: &str, columns: u32, rows: u32) -> Result<(), Error> {
        let process = self.process(exec_id)?;
        let what = if exec_id.is_empty() { &self.id } else { exec_id };
        process.ensure_alive("resize", what)?;
        if !process.streams.terminal {
            return Err(Error::NoTerminal(what.to_owned()));
        }
        let agent = self.agent().await?;
        if exec_id.is_empty() {
            agent.resize(&self.id, rows, columns).await?;
        } else {
            let name = self.further(exec_id)?.name.clone();
            agent.process(&self.id, &name).resize(rows, columns).await?;
        }
        Ok(())
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// It does not run, or does not stand still.
    pub async fn pause(&self) -> Result<(), Error> {
        match self.record()?.current_status() {
            ContainerStatus::Running => self.ask(Request::Pause {}).await?,
            _ => return Err(ControlError::NotRunning.into()),
        }
        self.context.events.publish(&TaskPaused {
            container_id: self.id.clone(),
            ..TaskPaused::default()
        });
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is not paused.
    pub async fn resume(&self) -> Result<(), Error> {
        match self.record()?.current_status() {
            ContainerStatus::Paused => self.ask(Request::Resume {}).await?,
            _ => return Err(ControlError::NotPaused.into()),
        }
        self.context.events.publish(&TaskResumed {
            container_id: self.id.clone(),
            ..TaskResumed::default()
        });
        Ok(())
    }

    /// Changes its limits: `resources` is JSON like `linux.resources` of `config.json`.
    ///
    /// # Errors
    /// A field that cannot be honoured, or the container has ended.
    pub async fn update(&self, resources: &[u8]) -> Result<(), Error> {
        let invalid = |problem: String| Error::Invalid {
            what: "resources",
            problem,
        };
        let resources: Value =
            serde_json::from_slice(resources).map_err(|error| invalid(error.to_string()))?;
        if !resources.is_object() {
            return Err(invalid("is no JSON object".to_owned()));
        }
        match changed_limits(json!({"resources": resources}))? {
            Some(resources) => self.ask(Request::Update { resources }).await,
            None => Ok(()),
        }
    }

    /// The pids of its processes in the guest. Of one that has ended the pid that it had, so that containerd, when it is
    /// restarted, does not take the task for one that was never created.
    ///
    /// # Errors
    /// The guest does not answer.
    pub async fn pids(&self) -> Result<Vec<u32>, Error> {
        let progress = self.init.progress();
        if progress.end().is_some() {
            return Ok(vec![progress.pid()]);
        }
        let processes = self.agent().await?.processes(&self.id).await?;
        Ok(processes.into_iter().map(|process| process.pid).collect())
    }

    /// The files of its cgroup in the guest.
    ///
    /// # Errors
    /// It has ended.
    pub async fn figures(&self) -> Result<Vec<CgroupFile>, Error> {
        self.init.ensure_alive("measure", &self.id)?;
        Ok(self.agent().await?.stats(&self.id).await?)
    }

    /// What a process is doing.
    pub fn status(&self, process: &Process) -> Status {
        let progress = process.progress();
        let is_paused = || {
            self.record()
                .is_ok_and(|record| record.current_status() == ContainerStatus::Paused)
        };
        match progress {
            Progress::Running { .. } if is_paused() => Status::PAUSED,
            progress => progress.status(),
        }
    }

    fn record(&self) -> Result<State, Error> {
        self.folder.load()?.ok_or_else(|| Error::NoTask(self.id.clone()))
    }

    async fn agent(&self) -> Result<Agent, Error> {
        Ok(Agent::connect(&GuestSocket::of(&self.sandbox)?).await?)
    }

    async fn ask(&self, request: Request) -> Result<(), Error> {
        let folder = self.folder.clone();
        match tokio::task::spawn_blocking(move || ask(&folder, &request)).await {
            Ok(answered) => Ok(answered?),
            Err(error) => Err(Error::io("ask the container's monitor")(error.into())),
        }
    }

    fn wrong_status(&self, action: &'static str, status: &'static str) -> Error {
        Error::Status {
            action,
            what: format!("task {}", self.id),
            status,
        }
    }
}

/// A stand-in whose process has been killed passes the last output on, which nobody may ever read.
async fn end_output(process: Arc<Process>) {
    if tokio::time::timeout(LAST_OUTPUT, process.ended()).await.is_ok() {
        return;
    }
    let (Progress::Created { pid } | Progress::Running { pid }) = process.progress() else {
        return;
    };
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        tracing::warn!(pid = pid.as_raw_pid(), "nobody reads the last output");
        // It is not reaped yet, so the number is its own.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// As the shell says it.
pub fn exit_status(exit: Exit) -> u32 {
    exit.code().unsigned_abs()
}
