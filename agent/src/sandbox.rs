//! Everything that the agent holds: containers, streams, storages.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bulkhead_agent_protocol::{DISK_FOLDER, messages as proto};
use oci_spec::runtime::LinuxResources;
use rustix::process::Pid;
use tokio::sync::Notify;

use crate::{
    container::{
        Container, Plan,
        cgroup_values::settings,
        namespaces::{Share, Source},
        spec::{self, SpecError},
    },
    demand::Demand,
    disks::{self, Plugged},
    error::AgentError,
    pod::Pod,
    process::{launch::Stdio, stdio},
    reaper::Reaper,
    storage,
    streams::Streams,
    volumes,
};

/// The longest id of a container: it is part of a file name.
const MAX_ID: usize = 240;

/// What has an id.
#[derive(Debug, Clone)]
pub enum Member {
    /// A container with a program.
    Container(Arc<Container>),
    /// A pod's own, without.
    Pod(Arc<Pod>),
}

impl Member {
    fn source(&self, share: &Share) -> Result<Source<'_>, AgentError> {
        match self {
            Self::Container(container) => Ok(container.source()),
            Self::Pod(pod) => pod.source(share),
        }
    }
}

/// The state of the guest.
pub struct Sandbox {
    /// `None` while one is being created or deleted.
    members: Mutex<HashMap<String, Option<Member>>>,
    mounted: Mutex<HashSet<PathBuf>>,
    disks: Mutex<Plugged>,
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
            members: Mutex::default(),
            mounted: Mutex::default(),
            disks: Mutex::default(),
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
        self.reserve(id)?;
        let built = self.build(request).await;
        if built.is_err() {
            self.disks().forget(id);
        }
        let container = self.settle(id, built, Member::Container)?;
        Ok(container.pid())
    }

    /// Makes a pod's own container.
    ///
    /// # Errors
    /// When the id is taken or none, the description is refused, or a step fails; nothing is left then.
    pub fn create_pod(&self, request: &proto::CreatePodRequest) -> Result<(), AgentError> {
        let id = &request.container_id;
        self.reserve(id)?;
        let made = Pod::create(request).map(Arc::new);
        self.settle(id, made, Member::Pod).map(drop)
    }

    /// What the limits of all containers come to when those of the container of that id change, which need not be there.
    ///
    /// # Errors
    /// A limit that makes no sense.
    pub fn demand(&self, id: &str, changes: &LinuxResources) -> Result<Demand, AgentError> {
        let changes = settings(changes)?;
        let members = self.members();
        let read = |id: &str, file: &str| match members.get(id)?.as_ref()? {
            Member::Container(container) => container.cgroup().ok()?.read(file).ok(),
            Member::Pod(_) => None,
        };
        let changed = Demand::of(|file| {
            // The last one of a file is what counts.
            let change = changes.iter().rfind(|change| change.file == file);
            change.map_or_else(|| read(id, file), |change| Some(change.value.clone()))
        });
        let others = members.keys().filter(|other| *other != id);
        let others = others.map(|other| Demand::of(|file| read(other, file)));
        Ok(others.chain([changed]).sum())
    }

    fn reserve(&self, id: &str) -> Result<(), AgentError> {
        check_id(id)?;
        match self.members().entry(id.to_owned()) {
            Entry::Occupied(_) => Err(AgentError::Exists(format!("container \"{id}\""))),
            Entry::Vacant(free) => {
                free.insert(None);
                Ok(())
            }
        }
    }

    fn settle<T>(
        &self,
        id: &str,
        made: Result<Arc<T>, AgentError>,
        member: impl FnOnce(Arc<T>) -> Member,
    ) -> Result<Arc<T>, AgentError> {
        match &made {
            Ok(new) => self
                .members()
                .insert(id.to_owned(), Some(member(Arc::clone(new)))),
            Err(_) => self.members().remove(id),
        };
        made
    }

    async fn build(&self, request: &proto::CreateContainerRequest) -> Result<Arc<Container>, AgentError> {
        // First, as whatever fails ends the streams.
        let stdio = self.connect(request.stdio.as_ref()).await?;
        self.disks().take(&request.container_id, &request.disks)?;
        let spec = disks::prepare(&request.disks, &request.spec)?;
        let plan = Plan::parse(&spec, &request.state)?;
        {
            let mut mounted = self.mounted();
            for storage in &request.storages {
                storage::mount(storage, &mut mounted)?;
            }
            storage::visit(&request.submounts);
        }
        request.volumes.iter().try_for_each(volumes::copy)?;
        let others = plan
            .shares
            .iter()
            .map(|share| {
                self.member(&share.container)
                    .map_err(|error| SpecError::invalid(&share.field, error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let sources = plan
            .shares
            .iter()
            .zip(&others)
            .map(|(share, other)| other.source(share))
            .collect::<Result<Vec<_>, _>>()?;
        Container::create(&request.container_id, plan, &sources, stdio, &self.reaper).await
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

    /// What has that id.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn member(&self, id: &str) -> Result<Member, AgentError> {
        let member = self.members().get(id).cloned().flatten();
        member.ok_or_else(|| AgentError::NoContainer(id.to_owned()))
    }

    /// A container with a program by its id.
    ///
    /// # Errors
    /// When there is none, and when it is a pod's own.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, AgentError> {
        match self.member(id)? {
            Member::Container(container) => Ok(container),
            Member::Pod(_) => {
                let text = format!("container \"{id}\" is a pod's own, in which no program runs");
                Err(AgentError::State(text))
            }
        }
    }

    /// Removes a container that has ended.
    ///
    /// # Errors
    /// When it runs, and when there is none of that id.
    pub async fn delete(&self, id: &str) -> Result<(), AgentError> {
        match self.member(id)? {
            Member::Container(container) => container.delete().await?,
            Member::Pod(pod) => pod.delete()?,
        }
        self.members().remove(id);
        volumes::release(id);
        storage::release(id);
        let folder = Path::new(DISK_FOLDER).join(id);
        self.mounted().retain(|target| !target.starts_with(&folder));
        self.disks().forget(id);
        Ok(())
    }

    /// Lets go of those of `disks` that no container has any more, and returns them.
    ///
    /// # Errors
    /// The kernel keeps one.
    pub fn release_disks(&self, disks: &[String]) -> Result<Vec<String>, AgentError> {
        Ok(self.disks().release(disks)?)
    }

    /// Ends every process and writes everything back.
    pub async fn end(&self) {
        // From pid 1 this reaches every other process.
        crate::syscalls::kill_all();
        self.reaper.until_alone().await;
        let mounted = std::mem::take(&mut *self.mounted());
        storage::unmount_all(mounted);
    }

    fn mounted(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.mounted.lock().expect("nothing panics while it is locked")
    }

    fn disks(&self) -> MutexGuard<'_, Plugged> {
        self.disks.lock().expect("nothing panics while it is locked")
    }

    fn members(&self) -> MutexGuard<'_, HashMap<String, Option<Member>>> {
        self.members.lock().expect("nothing panics while it is locked")
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
