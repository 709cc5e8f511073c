//! Everything that the agent holds: containers, streams, storages.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use bulkhead_agent_protocol::messages as proto;
use rustix::process::Pid;
use tokio::sync::Notify;

use crate::{
    container::{
        Container, Plan,
        spec::{self, SpecError},
    },
    disks,
    error::AgentError,
    process::{launch::Stdio, stdio},
    reaper::Reaper,
    storage,
    streams::Streams,
};

/// The longest id of a container: it is part of a file name.
const MAX_ID: usize = 240;

/// The state of the guest.
pub struct Sandbox {
    /// `None` while one is being created or deleted.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    mounted: Mutex<HashSet<PathBuf>>,
    /// The streams that the host has opened.
    pub streams: Streams,
    reaper: Arc<Reaper>,
    /// Told when a client's connection has ended.
    pub disconnected: Notify,
}

impl Sandbox {
    /// A guest without containers.
    pub fn new(reaper: Arc<Reaper>) -> Self {
        Self {
            containers: Mutex::default(),
            mounted: Mutex::default(),
            streams: Streams::default(),
            reaper,
            disconnected: Notify::new(),
        }
    }

    /// Mounts the storages and builds the container.
    ///
    /// # Errors
    /// When the id is taken or none, the description is refused, or a step fails; nothing but storages is left then.
    pub async fn create(&self, request: &proto::CreateContainerRequest) -> Result<Pid, AgentError> {
        let id = &request.container_id;
        check_id(id)?;
        if self.containers().contains_key(id) {
            return Err(AgentError::Exists(format!("container \"{id}\"")));
        }
        self.containers().insert(id.clone(), None);
        let result = self.build(request).await;
        match result {
            Ok(container) => {
                let pid = container.pid();
                self.containers().insert(id.clone(), Some(container));
                Ok(pid)
            }
            Err(error) => {
                self.containers().remove(id);
                Err(error)
            }
        }
    }

    async fn build(&self, request: &proto::CreateContainerRequest) -> Result<Arc<Container>, AgentError> {
        // First, as whatever fails ends the streams.
        let stdio = self.connect(request.stdio.as_ref()).await?;
        let spec = disks::prepare(&request.disks, &request.spec)?;
        let plan = Plan::parse(&spec, &request.state)?;
        {
            let mut mounted = self.mounted.lock().expect("nothing panics while it is locked");
            for storage in &request.storages {
                storage::mount(storage, &mut mounted)?;
            }
            storage::visit(&request.submounts);
        }
        let others = plan
            .shares
            .iter()
            .map(|share| {
                self.container(&share.container)
                    .map_err(|error| SpecError::invalid(&share.field, error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Container::create(&request.container_id, plan, &others, stdio, &self.reaper).await
    }

    /// Runs a further process in a container.
    ///
    /// # Errors
    /// When there is no such container, the description is refused, or a step fails.
    pub async fn exec(&self, request: &proto::ExecRequest) -> Result<Pid, AgentError> {
        let container = self.container(&request.container_id)?;
        if request.exec_id.is_empty() {
            return Err(AgentError::Request("exec_id is empty".to_owned()));
        }
        let (stdio, lifeline) = tokio::try_join!(
            self.connect(request.stdio.as_ref()),
            self.streams.claim(&request.lifeline),
        )?;
        let process = spec::parse_process(&request.process)?;
        container
            .exec(
                &request.exec_id,
                &process,
                &request.cgroup,
                stdio,
                lifeline,
                &self.reaper,
            )
            .await
    }

    async fn connect(&self, names: Option<&proto::Stdio>) -> Result<Stdio, AgentError> {
        let none = proto::Stdio::default();
        let names = names.unwrap_or(&none);
        if names.terminal && !names.stderr.is_empty() {
            return Err(AgentError::Request(
                "a terminal has no stderr of its own".to_owned(),
            ));
        }
        let (stdin, stdout, stderr) = tokio::try_join!(
            self.streams.claim(&names.stdin),
            self.streams.claim(&names.stdout),
            self.streams.claim(&names.stderr),
        )?;
        let streams = stdio::Streams {
            stdin,
            stdout,
            stderr,
        };
        Ok(if names.terminal {
            Stdio::Terminal(streams, (names.rows, names.columns))
        } else {
            Stdio::Streams(streams)
        })
    }

    /// A container by its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, AgentError> {
        let container = self.containers().get(id).cloned().flatten();
        container.ok_or_else(|| AgentError::NoContainer(id.to_owned()))
    }

    /// Removes a container that has ended.
    ///
    /// # Errors
    /// When it runs, and when there is none of that id.
    pub async fn delete(&self, id: &str) -> Result<(), AgentError> {
        let container = self.container(id)?;
        container.delete().await?;
        self.containers().remove(id);
        storage::release(id);
        Ok(())
    }

    /// Ends every process and writes everything back.
    pub async fn end(&self) {
        // From pid 1 this reaches every other process.
        crate::syscalls::kill_all();
        self.reaper.until_alone().await;
        let mounted = std::mem::take(&mut *self.mounted.lock().expect("nothing panics while it is locked"));
        storage::unmount_all(mounted);
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        self.containers.lock().expect("nothing panics while it is locked")
    }
}

fn check_id(id: &str) -> Result<(), AgentError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-,.".contains(&byte);
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(allowed) {
        return Err(AgentError::Request(format!(
            "container id \"{id}\" is not 1 to {MAX_ID} letters, digits and _ + - , ."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_of_the_runtime_is_an_id() {
        for id in ["a", "...", "A_b+c-d,e.0", &"x".repeat(MAX_ID)] {
            check_id(id).unwrap();
        }
        for id in ["", "a/b", "a b", "\u{e4}", &"x".repeat(MAX_ID + 1)] {
            check_id(id).unwrap_err();
        }
    }
}
