//! Further processes in a container.

use bulkhead_agent_protocol::messages::{
    DeleteRequest, ExecRequest, ResizeTerminalRequest, SignalRequest, Stdio, WaitRequest, WaitResponse,
};
use protobuf::MessageField;
use ttrpc::context::Context;

use super::{Agent, AgentError};

/// A further process to be run.
#[derive(Debug, Clone)]
pub struct NewProcess {
    /// The container.
    pub container: String,
    /// The process's name, unique in the container.
    pub id: String,
    /// The process object, JSON.
    pub process: Vec<u8>,
    /// The cgroup that it is to be in, relative to the container's; empty: the container's own.
    pub cgroup: String,
    /// The name of the stream whose end kills it.
    pub lifeline: String,
}

/// A further process whose program has been executed.
#[derive(Clone)]
pub struct Further {
    agent: Agent,
    container: String,
    id: String,
}

impl Agent {
    /// Runs a further process. Returns when its program has been executed.
    ///
    /// # Errors
    /// Why it could not be, in the agent's words.
    pub async fn exec(&self, new: NewProcess, stdio: Stdio) -> Result<Further, AgentError> {
        let request = ExecRequest {
            container_id: new.container,
            exec_id: new.id,
            process: new.process,
            stdio: MessageField::some(stdio),
            cgroup: new.cgroup,
            lifeline: new.lifeline,
            ..ExecRequest::default()
        };
        self.client.exec(Context::default(), &request).await?;
        Ok(Further {
            agent: self.clone(),
            container: request.container_id,
            id: request.exec_id,
        })
    }
}

impl Agent {
    /// A further process that another client of the agent has made by this name.
    pub fn process(&self, container: &str, id: &str) -> Further {
        Further {
            agent: self.clone(),
            container: container.to_owned(),
            id: id.to_owned(),
        }
    }
}

impl Further {
    /// Waits for its end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn wait(&self) -> Result<WaitResponse, AgentError> {
        let request = WaitRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            ..WaitRequest::default()
        };
        Ok(self.agent.client.wait(Context::default(), &request).await?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub async fn signal(&self, signal: u32) -> Result<(), AgentError> {
        let request = SignalRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            signal,
            ..SignalRequest::default()
        };
        self.agent.client.signal(Context::default(), &request).await?;
        Ok(())
    }

    /// Tells its terminal its size.
    ///
    /// # Errors
    /// It has no terminal, or has ended.
    pub async fn resize(&self, rows: u32, columns: u32) -> Result<(), AgentError> {
        let request = ResizeTerminalRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            rows,
            columns,
            ..ResizeTerminalRequest::default()
        };
        self.agent
            .client
            .resize_terminal(Context::default(), &request)
            .await?;
        Ok(())
    }

    /// Has the agent forget it.
    ///
    /// # Errors
    /// It still runs, or the connection broke.
    pub async fn delete(&self) -> Result<(), AgentError> {
        let request = DeleteRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            ..DeleteRequest::default()
        };
        self.agent.client.delete(Context::default(), &request).await?;
        Ok(())
    }
}
