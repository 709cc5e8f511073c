//! A container as containerd knows it.

mod further;
mod requests;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use containerd_shim_protos::{
    api::CreateTaskRequest,
    events::task::{TaskCreate, TaskDelete, TaskExit, TaskIO, TaskOOM, TaskStart},
    types::mount::Mount,
};
use protobuf::MessageField;
use tokio::sync::oneshot;

use super::{
    bundle::BundleConfig,
    context::Context,
    error::Error,
    events::Event,
    lock,
    logger::Origin,
    metrics::timestamp,
    options::Options,
    process::{Process, Progress},
    reaper::End,
    rootfs::Rootfs,
    standin::Commands,
    stream_names::StreamNames,
    streams::Streams,
};
use crate::{
    container::{
        control::{Request, ask},
        hooks,
    },
    sandbox::{Agent, Driver, Exit, GuestSocket, Id, State, StateFolder},
};
use further::Further;

/// How long the stand-ins of further processes may take to end when their container has.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// Whom to tell what happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// containerd, by events.
    Containerd,
    /// Nobody: it is a sandbox that containerd knows as such.
    Nobody,
}

/// A container.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its bundle's folder.
    pub bundle: PathBuf,
    /// When it was created.
    pub created_at: SystemTime,
    announcement: Announcement,
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

impl Task {
    /// Makes the container up to its start gate.
    ///
    /// # Errors
    /// Why it is not there. Nothing of it is left then.
    pub async fn create(
        context: &Arc<Context>,
        request: CreateTaskRequest,
        announcement: Announcement,
    ) -> Result<Arc<Self>, Error> {
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
            config: options.config.or_else(|| context.commands.config.clone()),
            ..context.commands.clone()
        };
        let names = StreamNames {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        // A container that only holds a sandbox runs nothing, and needs no files.
        let mounts = match config.is_pod() {
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
            created_at: SystemTime::now(),
            announcement,
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

    fn tell_of_creation(&self, rootfs: Vec<Mount>, bundle: String) {
        let streams = &self.init.streams;
        self.tell(&TaskCreate {
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
        self.tell(&TaskStart {
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
        // It may have ended before the guest could tell otherwise.
        if !self.told_of_oom.load(Ordering::Relaxed) && self.record().is_ok_and(|record| record.oom_killed) {
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
            tracing::warn!(task = self.id, "further processes take long to end");
        }
    }

    fn tell_of_end(&self, process: &str, pid: u32, end: End) {
        self.tell(&TaskExit {
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
                let _order = self.init.order.lock().await;
                if self.init.progress().end().is_none() {
                    self.tell_of_oom();
                }
            }
        };
        tokio::select! {
            watched = watch => {
                if let Err(error) = watched {
                    tracing::debug!(task = self.id, %error, "memory no longer watched");
                }
            }
            _ = self.init.ended() => {}
        }
    }

    fn tell_of_oom(&self) {
        self.told_of_oom.store(true, Ordering::Relaxed);
        self.tell(&TaskOOM {
            container_id: self.id.clone(),
            ..TaskOOM::default()
        });
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
        self.tell(&TaskDelete {
            container_id: self.id.clone(),
            pid,
            exit_status: exit_status(end.exit),
            exited_at: MessageField::some(timestamp(end.at)),
            ..TaskDelete::default()
        });
        Ok((pid, end))
    }

    fn tell<E: Event>(&self, event: &E) {
        if self.announcement == Announcement::Containerd {
            self.context.events.publish(event);
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

/// As the shell says it.
pub fn exit_status(exit: Exit) -> u32 {
    exit.code().unsigned_abs()
}
