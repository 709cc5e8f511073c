//! The agent's service.

mod connections;

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_agent_protocol::{Agent, create_agent, messages as proto};
use rustix::system::{RebootCommand, reboot, uname};
use tokio::time::{Duration, timeout};
use ttrpc::r#async::{Server, TtrpcContext};

use crate::{
    apparmor,
    container::{Ended, freezer, limits, processes, spec, stats},
    error::AgentError,
    failure::Step,
    memory, network, ports, processors,
    reaper::{Reaper, wait_for_exit},
    sandbox::{Member, Sandbox},
    volumes,
};

/// How long a client that was told of the guest's end may take to hang up.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves until the guest is switched off.
///
/// # Errors
/// Says what could not be set up.
pub fn run() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("start the event loop: {error}"))?;
    runtime.block_on(async {
        let reaper = Reaper::start().map_err(|error| format!("learn of ended processes: {error}"))?;
        let sandbox = Arc::new(Sandbox::new(reaper));
        let clients = connections::listen(&sandbox).await?;
        let service = Arc::new(Service(sandbox));
        let mut server = Server::new()
            .register_service(create_agent(service))
            .add_listener(clients);
        server.start().await.map_err(|error| format!("serve: {error}"))?;
        std::future::pending().await
    })
}

struct Service(Arc<Sandbox>);

impl Service {
    /// Runs work that must come to its end even if the client goes away meanwhile: a container half made would be
    /// nobody's.
    async fn complete<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AgentError>> + Send + 'static,
    ) -> ttrpc::Result<T> {
        match tokio::spawn(work).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(ttrpc::Error::Others(error.to_string())),
        }
    }
}

#[async_trait]
impl Agent for Service {
    async fn describe(
        &self,
        _: &TtrpcContext,
        _: proto::DescribeRequest,
    ) -> ttrpc::Result<proto::DescribeResponse> {
        Ok(proto::DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: uname().release().to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    async fn load_app_armor_profile(
        &self,
        _: &TtrpcContext,
        request: proto::LoadAppArmorProfileRequest,
    ) -> ttrpc::Result<proto::LoadAppArmorProfileResponse> {
        apparmor::load(&request.name, &request.policy).map_err(AgentError::from)?;
        Ok(proto::LoadAppArmorProfileResponse::default())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: proto::CreateContainerRequest,
    ) -> ttrpc::Result<proto::CreateContainerResponse> {
        let sandbox = Arc::clone(&self.0);
        let pid = self
            .complete(async move { sandbox.create(&request).await })
            .await?;
        Ok(proto::CreateContainerResponse {
            pid: pid.as_raw_nonzero().get().cast_unsigned(),
            ..Default::default()
        })
    }

    async fn create_pod(
        &self,
        _: &TtrpcContext,
        request: proto::CreatePodRequest,
    ) -> ttrpc::Result<proto::CreatePodResponse> {
        self.0.create_pod(&request)?;
        Ok(proto::CreatePodResponse::default())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: proto::StartContainerRequest,
    ) -> ttrpc::Result<proto::StartContainerResponse> {
        if let Member::Container(container) = self.0.member(&request.container_id)? {
            self.complete(async move { container.start().await }).await?;
        }
        Ok(proto::StartContainerResponse::default())
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: proto::ExecRequest,
    ) -> ttrpc::Result<proto::ExecResponse> {
        let sandbox = Arc::clone(&self.0);
        let pid = self.complete(async move { sandbox.exec(&request).await }).await?;
        Ok(proto::ExecResponse {
            pid: pid.as_raw_nonzero().get().cast_unsigned(),
            ..Default::default()
        })
    }

    async fn signal(
        &self,
        _: &TtrpcContext,
        request: proto::SignalRequest,
    ) -> ttrpc::Result<proto::SignalResponse> {
        match self.0.member(&request.container_id)? {
            Member::Pod(pod) => pod.signal(request.signal)?,
            Member::Container(container) if request.all => container.signal_all(request.signal)?,
            Member::Container(container) => {
                container.with_process(&request.exec_id, |process| process.signal(request.signal))??;
            }
        }
        Ok(proto::SignalResponse::default())
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: proto::WaitRequest,
    ) -> ttrpc::Result<proto::WaitResponse> {
        let ended = match self.0.member(&request.container_id)? {
            Member::Container(container) => container.wait(&request.exec_id).await?,
            Member::Pod(pod) => Ended::by_itself(wait_for_exit(pod.exit()).await?),
        };
        Ok(proto::WaitResponse {
            exit_code: ended.exit.code,
            signal: ended.exit.signal,
            oom_killed: ended.is_oom_killed,
            exited_at_nanos: ended.exit.at_nanos,
            output_held: ended.is_output_held,
            ..Default::default()
        })
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: proto::ResizeTerminalRequest,
    ) -> ttrpc::Result<proto::ResizeTerminalResponse> {
        let container = self.0.container(&request.container_id)?;
        container.with_process(&request.exec_id, |process| {
            process.resize(request.rows, request.columns)
        })??;
        Ok(proto::ResizeTerminalResponse::default())
    }

    async fn update_volume(
        &self,
        _: &TtrpcContext,
        request: proto::UpdateVolumeRequest,
    ) -> ttrpc::Result<proto::UpdateVolumeResponse> {
        volumes::update(&request)?;
        Ok(proto::UpdateVolumeResponse::default())
    }

    async fn release_disks(
        &self,
        _: &TtrpcContext,
        request: proto::ReleaseDisksRequest,
    ) -> ttrpc::Result<proto::ReleaseDisksResponse> {
        Ok(proto::ReleaseDisksResponse {
            disks: self.0.release_disks(&request.disks)?,
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: proto::DeleteRequest,
    ) -> ttrpc::Result<proto::DeleteResponse> {
        if request.exec_id.is_empty() {
            let sandbox = Arc::clone(&self.0);
            self.complete(async move { sandbox.delete(&request.container_id).await })
                .await?;
        } else {
            self.0
                .container(&request.container_id)?
                .delete_process(&request.exec_id)?;
        }
        Ok(proto::DeleteResponse::default())
    }

    async fn pause(
        &self,
        _: &TtrpcContext,
        request: proto::PauseRequest,
    ) -> ttrpc::Result<proto::PauseResponse> {
        let container = self.0.container(&request.container_id)?;
        self.complete(async move { Ok(freezer::freeze(container.cgroup()?).await?) })
            .await?;
        Ok(proto::PauseResponse::default())
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: proto::ResumeRequest,
    ) -> ttrpc::Result<proto::ResumeResponse> {
        let container = self.0.container(&request.container_id)?;
        freezer::thaw(container.cgroup()?).map_err(AgentError::from)?;
        Ok(proto::ResumeResponse::default())
    }

    async fn update_resources(
        &self,
        _: &TtrpcContext,
        request: proto::UpdateResourcesRequest,
    ) -> ttrpc::Result<proto::UpdateResourcesResponse> {
        let container = self.0.container(&request.container_id)?;
        let resources = spec::parse_resources(&request.resources).map_err(AgentError::from)?;
        limits::update(container.cgroup()?, &resources)?;
        Ok(proto::UpdateResourcesResponse::default())
    }

    async fn sum_limits(
        &self,
        _: &TtrpcContext,
        request: proto::SumLimitsRequest,
    ) -> ttrpc::Result<proto::SumLimitsResponse> {
        let changes = spec::parse_resources(&request.resources).map_err(AgentError::from)?;
        let demand = self.0.demand(&request.container_id, &changes)?;
        Ok(proto::SumLimitsResponse {
            processors: demand.processors,
            memory: demand.memory,
            ..Default::default()
        })
    }

    async fn connect_port(
        &self,
        _: &TtrpcContext,
        request: proto::ConnectPortRequest,
    ) -> ttrpc::Result<proto::ConnectPortResponse> {
        let stream = self.0.streams.claim(&request.stream).await?;
        ports::connect(request.port, stream).await?;
        Ok(proto::ConnectPortResponse::default())
    }

    async fn online_processors(
        &self,
        _: &TtrpcContext,
        request: proto::OnlineProcessorsRequest,
    ) -> ttrpc::Result<proto::OnlineProcessorsResponse> {
        processors::bring_online(request.count).map_err(AgentError::from)?;
        Ok(proto::OnlineProcessorsResponse::default())
    }

    async fn plug_memory(
        &self,
        _: &TtrpcContext,
        request: proto::PlugMemoryRequest,
    ) -> ttrpc::Result<proto::PlugMemoryResponse> {
        memory::plug(request.slot).map_err(AgentError::from)?;
        Ok(proto::PlugMemoryResponse::default())
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: proto::StatsRequest,
    ) -> ttrpc::Result<proto::StatsResponse> {
        let container = self.0.container(&request.container_id)?;
        let files = stats::files(container.cgroup()?)
            .step(|| "read the container's cgroup")
            .map_err(AgentError::from)?;
        Ok(proto::StatsResponse {
            files,
            ..Default::default()
        })
    }

    async fn wait_oom(
        &self,
        _: &TtrpcContext,
        request: proto::WaitOomRequest,
    ) -> ttrpc::Result<proto::WaitOomResponse> {
        let container = self.0.container(&request.container_id)?;
        Ok(proto::WaitOomResponse {
            count: container.wait_for_oom_kill(request.known).await?,
            ..Default::default()
        })
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: proto::ListProcessesRequest,
    ) -> ttrpc::Result<proto::ListProcessesResponse> {
        let container = self.0.container(&request.container_id)?;
        let processes = processes::list(container.cgroup()?)
            .step(|| "list the container's processes")
            .map_err(AgentError::from)?;
        Ok(proto::ListProcessesResponse {
            processes,
            ..Default::default()
        })
    }

    async fn configure_network(
        &self,
        _: &TtrpcContext,
        request: proto::ConfigureNetworkRequest,
    ) -> ttrpc::Result<proto::ConfigureNetworkResponse> {
        self.complete(async move { Ok(network::configure(&request)?) })
            .await?;
        Ok(proto::ConfigureNetworkResponse::default())
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        _: proto::ShutdownRequest,
    ) -> ttrpc::Result<proto::ShutdownResponse> {
        let sandbox = Arc::clone(&self.0);
        self.complete(async move {
            sandbox.end().await;
            tokio::spawn(async move {
                // The client hangs up when it has the answer; one that does not cannot keep the guest running.
                let _ = timeout(FAREWELL, sandbox.disconnected.notified()).await;
                // The i8042's reset, which is how a microVM ends.
                if let Err(errno) = reboot(RebootCommand::Restart) {
                    eprintln!("bulkhead-agent: switch off: {errno}");
                }
            });
            Ok(())
        })
        .await?;
        Ok(proto::ShutdownResponse::default())
    }
}
