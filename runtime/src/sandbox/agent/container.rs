//! What is asked about a container as a whole.

use bulkhead_agent_protocol::messages::{
    CgroupFile, ListProcessesRequest, PauseRequest, ProcessInfo, ResumeRequest, StatsRequest,
    SumLimitsRequest, UpdateResourcesRequest, WaitOomRequest,
};
use ttrpc::context::Context;

use super::{Agent, AgentError};

/// What the limits of containers come to. What is not limited counts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// How many processors the quotas can use up.
    pub processors: u32,
    /// Memory in bytes.
    pub memory: u64,
}

impl Agent {
    /// Freezes every process of a container. Returns when all stand still.
    ///
    /// # Errors
    /// One does not, and all go on; or the container has ended.
    pub async fn pause(&self, id: &str) -> Result<(), AgentError> {
        let request = PauseRequest {
            container_id: id.to_owned(),
            ..PauseRequest::default()
        };
        self.client.pause(Context::default(), &request).await?;
        Ok(())
    }

    /// Lets the processes of a container go on.
    ///
    /// # Errors
    /// The container has ended.
    pub async fn resume(&self, id: &str) -> Result<(), AgentError> {
        let request = ResumeRequest {
            container_id: id.to_owned(),
            ..ResumeRequest::default()
        };
        self.client.resume(Context::default(), &request).await?;
        Ok(())
    }

    /// Adds up the limits of all containers of the guest, as they are when those of one change, be it there or yet to come:
    /// `resources` is JSON like `linux.resources` of `config.json`.
    ///
    /// # Errors
    /// A limit that makes no sense.
    pub async fn sum_limits(&self, id: &str, resources: Vec<u8>) -> Result<Demand, AgentError> {
        let request = SumLimitsRequest {
            container_id: id.to_owned(),
            resources,
            ..SumLimitsRequest::default()
        };
        let sum = self.client.sum_limits(Context::default(), &request).await?;
        Ok(Demand {
            processors: sum.processors,
            memory: sum.memory,
        })
    }

    /// Changes limits of a container: `resources` is JSON like `linux.resources` of `config.json`.
    ///
    /// # Errors
    /// The field whose limit cannot be set; all are then as they were.
    pub async fn update(&self, id: &str, resources: Vec<u8>) -> Result<(), AgentError> {
        let request = UpdateResourcesRequest {
            container_id: id.to_owned(),
            resources,
            ..UpdateResourcesRequest::default()
        };
        self.client.update_resources(Context::default(), &request).await?;
        Ok(())
    }

    /// The files of a container's cgroup in the guest, as the guest's kernel shows them.
    ///
    /// # Errors
    /// The container has ended.
    pub async fn stats(&self, id: &str) -> Result<Vec<CgroupFile>, AgentError> {
        let request = StatsRequest {
            container_id: id.to_owned(),
            ..StatsRequest::default()
        };
        Ok(self.client.stats(Context::default(), &request).await?.files)
    }

    /// Waits until more than `known` processes of a container have been killed for want of memory, or the container has
    /// ended. Answers how many have been.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn wait_oom(&self, id: &str, known: u64) -> Result<u64, AgentError> {
        let request = WaitOomRequest {
            container_id: id.to_owned(),
            known,
            ..WaitOomRequest::default()
        };
        Ok(self.client.wait_oom(Context::default(), &request).await?.count)
    }

    /// Every process of a container, by pid in the guest.
    ///
    /// # Errors
    /// The container has ended.
    pub async fn processes(&self, id: &str) -> Result<Vec<ProcessInfo>, AgentError> {
        let request = ListProcessesRequest {
            container_id: id.to_owned(),
            ..ListProcessesRequest::default()
        };
        let list = self.client.list_processes(Context::default(), &request).await?;
        Ok(list.processes)
    }
}
