//! containerd's task service: each request to the task that it is about. Version 3 is version 2 by another name.
//!
//! What changes something is carried out to its end, also when containerd goes away meanwhile.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
        StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    shim_async::{Task as Service, create_task},
};
use protobuf::MessageField;
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;

use super::{
    error::Error,
    metrics::{self, timestamp},
    task::{Announcement, exit_status},
    tasks::Tasks,
};

/// What the service is called by containerd 1.x.
const VERSION_2: &str = "containerd.task.v2.Task";
/// What it is called by containerd 2.x.
const VERSION_3: &str = "containerd.task.v3.Task";

/// The service.
#[derive(Debug, Clone)]
pub struct TaskService {
    /// The tasks.
    pub tasks: Arc<Tasks>,
    /// The shim is to end.
    pub shutdown: Arc<Notify>,
}

impl TaskService {
    /// The service under both of its names.
    pub fn under_both_names(self) -> HashMap<String, ttrpc::r#async::Service> {
        let service: Arc<dyn Service + Send + Sync> = Arc::new(self);
        let under = |name: &str| {
            let methods = create_task(Arc::clone(&service)).into_values();
            methods
                .map(|methods| (name.to_owned(), methods))
                .collect::<Vec<_>>()
        };
        [under(VERSION_2), under(VERSION_3)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Has the shim end if it has no task, which is known when those are settled that are being made or removed.
pub fn end_if_unused(tasks: &Arc<Tasks>, shutdown: &Arc<Notify>) {
    let (tasks, shutdown) = (Arc::clone(tasks), Arc::clone(shutdown));
    tokio::spawn(async move {
        if tasks.are_gone().await {
            shutdown.notify_one();
        }
    });
}

/// Carries something out to its end, though nobody may wait for the answer any more.
pub async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Error::io("carry the request out")(error.into()).into()),
    }
}

#[async_trait]
impl Service for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let (task, process) = self.tasks.process(&request.id, &request.exec_id)?;
        let progress = process.progress();
        let streams = process.streams.clone();
        Ok(StateResponse {
            id: if request.exec_id.is_empty() {
                request.id
            } else {
                request.exec_id.clone()
            },
            bundle: task.bundle.display().to_string(),
            pid: progress.pid(),
            status: task.status(&process).into(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: streams.terminal,
            exit_status: progress.end().map_or(0, |end| exit_status(end.exit)),
            exited_at: progress.end().map(|end| timestamp(end.at)).into(),
            exec_id: request.exec_id,
            ..StateResponse::default()
        })
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let tasks = Arc::clone(&self.tasks);
        let task = whole(async move { tasks.create(request, Announcement::Containerd).await }).await?;
        Ok(CreateTaskResponse {
            pid: task.init.progress().pid(),
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let task = self.tasks.get(&request.id)?;
        let pid = whole(async move {
            match request.exec_id.as_str() {
                "" => task.start().await,
                exec_id => task.start_further(exec_id).await,
            }
        });
        Ok(StartResponse {
            pid: pid.await?,
            ..StartResponse::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let tasks = Arc::clone(&self.tasks);
        let (pid, end) = whole(async move {
            let task = tasks.get_unwanted(&request.id).await?;
            if request.exec_id.is_empty() {
                let (pid, end) = tasks.delete(&task).await?;
                Ok((pid, Some(end)))
            } else {
                task.delete_further(&request.exec_id).await
            }
        })
        .await?;
        Ok(DeleteResponse {
            pid,
            exit_status: end.map_or(0, |end| exit_status(end.exit)),
            exited_at: end.map(|end| timestamp(end.at)).into(),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self.tasks.get(&request.id)?.pids().await?;
        let info = |pid| ProcessInfo {
            pid,
            ..ProcessInfo::default()
        };
        Ok(PidsResponse {
            processes: pids.into_iter().map(info).collect(),
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let task = self.tasks.get(&request.id)?;
        whole(async move { task.pause().await }).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let task = self.tasks.get(&request.id)?;
        whole(async move { task.resume().await }).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        self.tasks.get(&request.id)?;
        Err(Error::NoSnapshots("checkpoint").into())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let task = self.tasks.get(&request.id)?;
        whole(async move { task.kill(&request.exec_id, request.signal, request.all).await }).await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.tasks.get(&request.id)?.add(request)?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let task = self.tasks.get(&request.id)?;
        task.resize(&request.exec_id, request.width, request.height)
            .await?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let (_, process) = self.tasks.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.close_input();
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.tasks.get(&request.id)?;
        whole(async move { task.update(&request.resources.value).await }).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let (_, process) = self.tasks.process(&request.id, &request.exec_id)?;
        let end = process.ended().await;
        Ok(WaitResponse {
            exit_status: exit_status(end.exit),
            exited_at: MessageField::some(timestamp(end.at)),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let files = self.tasks.get(&request.id)?.figures().await?;
        let stats = metrics::encode(files).map_err(|error| Error::io("encode figures")(error.into()))?;
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..StatsResponse::default()
        })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let task = self.tasks.get(&request.id)?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task.init.progress().pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        end_if_unused(&self.tasks, &self.shutdown);
        Ok(Empty::default())
    }
}
