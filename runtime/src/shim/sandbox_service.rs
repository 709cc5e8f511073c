//! containerd 2.x's sandbox service, which has the shim make a pod's sandbox itself: the container that stands for the pod, of
//! which containerd then knows nothing. Used where containerd's runtime has `sandboxer = "shim"`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::CreateTaskRequest,
    sandbox_api::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
        PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
        SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
        StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
        WaitSandboxResponse,
    },
    sandbox_async::{Sandbox as Service, create_sandbox},
    types::platform::Platform,
};
use protobuf::MessageField;
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;

use super::{
    error::Error,
    metrics::timestamp,
    pod_config::PodConfig,
    process::Progress,
    task::{Announcement, Task, exit_status},
    task_service::{end_if_unused, whole},
    tasks::Tasks,
};

/// The states of a sandbox, as CRI calls them.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// How long a sandbox that is killed may take to end.
const LAST_STEPS: Duration = Duration::from_secs(10);

const KILL: u32 = libc::SIGKILL.unsigned_abs();

/// The service.
#[derive(Debug, Clone)]
pub struct SandboxService {
    /// The tasks, the sandbox's own among them.
    pub tasks: Arc<Tasks>,
    /// The shim is to end.
    pub shutdown: Arc<Notify>,
}

impl SandboxService {
    /// The service under its name.
    pub fn under_its_name(self) -> HashMap<String, ttrpc::r#async::Service> {
        create_sandbox(Arc::new(self))
    }
}

/// Ends the sandbox with all of its containers, unless it has ended.
async fn stop(sandbox: &Task, limit: Duration) -> Result<(), Error> {
    match sandbox.kill("", KILL, true).await {
        Ok(()) | Err(Error::Finished(_)) => {}
        refused => refused?,
    }
    match tokio::time::timeout(limit, sandbox.init.ended()).await {
        Ok(_) => Ok(()),
        Err(late) => Err(Error::io("wait for the sandbox's end")(late.into())),
    }
}

#[async_trait]
impl Service for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        let tasks = Arc::clone(&self.tasks);
        whole(async move {
            PodConfig::of(&request)?.complete(request.bundle_path.as_ref())?;
            let creation = CreateTaskRequest {
                id: request.sandbox_id,
                bundle: request.bundle_path,
                ..CreateTaskRequest::default()
            };
            tasks.create(creation, Announcement::Nobody).await.map(drop)
        })
        .await?;
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let sandbox = self.tasks.get(&request.sandbox_id)?;
        let created_at = sandbox.created_at;
        let pid = whole(async move { sandbox.start().await }).await?;
        Ok(StartSandboxResponse {
            pid,
            created_at: MessageField::some(timestamp(created_at)),
            ..StartSandboxResponse::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, _: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        Ok(PlatformResponse {
            platform: MessageField::some(Platform {
                os: "linux".to_owned(),
                architecture: match std::env::consts::ARCH {
                    "x86_64" => "amd64".to_owned(),
                    "aarch64" => "arm64".to_owned(),
                    other => other.to_owned(),
                },
                ..Platform::default()
            }),
            ..PlatformResponse::default()
        })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        let sandbox = self.tasks.get(&request.sandbox_id)?;
        let limit = match request.timeout_secs {
            0 => LAST_STEPS,
            seconds => Duration::from_secs(seconds.into()),
        };
        whole(async move { stop(&sandbox, limit).await }).await?;
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        let end = self.tasks.get(&request.sandbox_id)?.init.ended().await;
        Ok(WaitSandboxResponse {
            exit_status: exit_status(end.exit),
            exited_at: MessageField::some(timestamp(end.at)),
            ..WaitSandboxResponse::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let sandbox = self.tasks.get(&request.sandbox_id)?;
        let progress = sandbox.init.progress();
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: progress.pid(),
            state: match progress {
                Progress::Running { .. } => READY.to_owned(),
                _ => NOT_READY.to_owned(),
            },
            created_at: MessageField::some(timestamp(sandbox.created_at)),
            exited_at: progress.end().map(|end| timestamp(end.at)).into(),
            ..SandboxStatusResponse::default()
        })
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> ttrpc::Result<PingResponse> {
        self.tasks.get(&request.sandbox_id)?;
        Ok(PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        let tasks = Arc::clone(&self.tasks);
        whole(async move {
            // One that could not be created is shut down all the same.
            let Ok(sandbox) = tasks.get_unwanted(&request.sandbox_id).await else {
                return Ok(());
            };
            stop(&sandbox, LAST_STEPS).await?;
            tasks.delete(&sandbox).await.map(drop)
        })
        .await?;
        end_if_unused(&self.tasks, &self.shutdown);
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        let files = self.tasks.get(&request.sandbox_id)?.figures().await?;
        let data =
            super::metrics::encode(files).map_err(|error| Error::io("encode figures")(error.into()))?;
        let mut response = SandboxMetricsResponse::default();
        let metrics = response.metrics.mut_or_insert_default();
        metrics.timestamp = MessageField::some(timestamp(SystemTime::now()));
        metrics.id = request.sandbox_id;
        metrics.data = MessageField::some(data);
        Ok(response)
    }
}
