//! The agent in the guest, as the runtime sees it.

mod container;
mod exec;

use bulkhead_agent_protocol::{
    AGENT_PORT, AgentClient, SHARED_FOLDER, SHARED_TAG, VOLUME_FOLDER,
    messages::{
        self, ConfigureNetworkRequest, ConnectPortRequest, CreateContainerRequest, CreatePodRequest,
        DeleteRequest, DescribeRequest, LoadAppArmorProfileRequest, OnlineProcessorsRequest,
        PlugMemoryRequest, ReleaseDisksRequest, ResizeTerminalRequest, ShutdownRequest, SignalRequest,
        StartContainerRequest, Stdio, Storage, UpdateVolumeRequest, WaitRequest, WaitResponse,
    },
};
use protobuf::MessageField;
use tokio::net::UnixStream;
use ttrpc::{
    r#async::{Client, transport::Socket},
    context::Context,
};

use super::{AppArmorProfile, GuestSocket};
use crate::oci::{Bundle, Disk, DiskMount, GuestPaths, SharedMemory, Volume, disk_folder};
pub use container::Demand;
pub use exec::{Further, NewProcess};

/// A client of the agent. Clones share the connection.
#[derive(Clone)]
pub struct Agent {
    client: AgentClient,
}

/// A container to be built.
pub struct NewContainer<'a> {
    /// The document of [`crate::oci::for_guest`].
    pub spec: Vec<u8>,
    /// What hooks in the guest are told.
    pub state: Vec<u8>,
    /// In which slots its disks have just been put, in the order of the bundle's; none: they have been there from the start.
    pub disk_slots: Vec<u32>,
    /// Whence its disks, its shared memory and its volumes.
    pub bundle: &'a Bundle,
    /// Where the guest has its files.
    pub paths: GuestPaths<'a>,
    /// What [`super::SharedFiles`] has found below bind mounts.
    pub submounts: Vec<String>,
    /// Its streams, connected.
    pub stdio: Stdio,
}

/// Why a request to the agent failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AgentError {
    /// The agent said why.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the connection to the agent broke: {0}")]
    Lost(String),
}

impl From<ttrpc::Error> for AgentError {
    fn from(error: ttrpc::Error) -> Self {
        match error {
            ttrpc::Error::RpcStatus(status) => Self::Refused(status.message),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl Agent {
    /// Talks to the agent over `connection`. Called inside a tokio runtime.
    pub fn new(connection: UnixStream) -> Self {
        Self {
            client: AgentClient::new(Client::new(Socket::new(connection))),
        }
    }

    /// Asks who it is, which tells that it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn describe(&self) -> Result<(), AgentError> {
        let request = DescribeRequest::default();
        self.client.describe(Context::default(), &request).await?;
        Ok(())
    }

    /// Gives the guest an AppArmor profile, for processes that are made later.
    ///
    /// # Errors
    /// The guest's kernel refuses it.
    pub async fn load_profile(&self, profile: AppArmorProfile) -> Result<(), AgentError> {
        let request = LoadAppArmorProfileRequest {
            name: profile.name,
            policy: profile.policy,
            ..LoadAppArmorProfileRequest::default()
        };
        self.client
            .load_app_armor_profile(Context::default(), &request)
            .await?;
        Ok(())
    }

    /// Has the guest use that many processors, which the VMM has made.
    ///
    /// # Errors
    /// One does not start.
    pub async fn online_processors(&self, count: u8) -> Result<(), AgentError> {
        let request = OnlineProcessorsRequest {
            count: count.into(),
            ..OnlineProcessorsRequest::default()
        };
        self.client
            .online_processors(Context::default(), &request)
            .await?;
        Ok(())
    }

    /// Has the guest take memory from the memory device that the VMM has put into that slot.
    ///
    /// # Errors
    /// The guest's kernel cannot.
    pub async fn plug_memory(&self, slot: usize) -> Result<(), AgentError> {
        let request = PlugMemoryRequest {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            ..PlugMemoryRequest::default()
        };
        self.client.plug_memory(Context::default(), &request).await?;
        Ok(())
    }

    /// Builds a container up to its start gate.
    ///
    /// # Errors
    /// The step that failed, in the agent's words.
    pub async fn create(&self, id: &str, container: NewContainer<'_>) -> Result<(), AgentError> {
        let NewContainer { bundle, paths, .. } = container;
        let shared = Storage {
            source: SHARED_TAG.to_owned(),
            fstype: "virtiofs".to_owned(),
            target: SHARED_FOLDER.to_owned(),
            ..Storage::default()
        };
        let request = CreateContainerRequest {
            container_id: id.to_owned(),
            spec: container.spec,
            state: container.state,
            submounts: container.submounts,
            storages: std::iter::once(shared)
                .chain((!bundle.volumes.is_empty()).then(memory_for_volumes))
                .chain(bundle.shared_memory.as_ref().map(memory))
                .chain(
                    bundle
                        .disks
                        .mounts
                        .iter()
                        .filter_map(|mount| file_system(id, mount)),
                )
                .collect(),
            volumes: bundle
                .volumes
                .iter()
                .map(|volume| volume_of(volume, paths))
                .collect(),
            disks: bundle
                .disks
                .disks
                .iter()
                .enumerate()
                .map(|(index, disk)| described(disk, container.disk_slots.get(index).copied()))
                .collect(),
            stdio: MessageField::some(container.stdio),
            ..CreateContainerRequest::default()
        };
        self.client.create_container(Context::default(), &request).await?;
        Ok(())
    }

    /// Makes a pod's own container: namespaces for others to share, as `spec` has them, and no program.
    ///
    /// # Errors
    /// The step that failed, in the agent's words.
    pub async fn create_pod(&self, id: &str, spec: Vec<u8>) -> Result<(), AgentError> {
        let request = CreatePodRequest {
            container_id: id.to_owned(),
            spec,
            ..CreatePodRequest::default()
        };
        self.client.create_pod(Context::default(), &request).await?;
        Ok(())
    }

    /// Opens a container's start gate.
    ///
    /// # Errors
    /// Why the program could not be executed.
    pub async fn start(&self, id: &str) -> Result<(), AgentError> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
            ..StartContainerRequest::default()
        };
        self.client.start_container(Context::default(), &request).await?;
        Ok(())
    }

    /// Connects to the agent of a sandbox whose monitor is another process. Called inside a tokio runtime.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn connect(guest: &GuestSocket) -> Result<Self, AgentError> {
        let connection = guest.connect(AGENT_PORT).await;
        connection
            .map(Self::new)
            .map_err(|error| AgentError::Lost(error.to_string()))
    }

    /// Sends a signal to a container's first process, or to `all` of its processes.
    ///
    /// # Errors
    /// The first process has ended.
    pub async fn signal(&self, id: &str, signal: u32, all: bool) -> Result<(), AgentError> {
        let request = SignalRequest {
            container_id: id.to_owned(),
            signal,
            all,
            ..SignalRequest::default()
        };
        self.client.signal(Context::default(), &request).await?;
        Ok(())
    }

    /// Waits for the end of a container's first process.
    ///
    /// # Errors
    /// No such container.
    pub async fn wait(&self, id: &str) -> Result<WaitResponse, AgentError> {
        let request = WaitRequest {
            container_id: id.to_owned(),
            ..WaitRequest::default()
        };
        Ok(self.client.wait(Context::default(), &request).await?)
    }

    /// Configures the guest's side of its networks.
    ///
    /// # Errors
    /// The interface and the step that failed.
    pub async fn configure_network(&self, request: ConfigureNetworkRequest) -> Result<(), AgentError> {
        self.client
            .configure_network(Context::default(), &request)
            .await?;
        Ok(())
    }

    /// Has a stream of that name connected to a TCP port of the guest's loopback interface.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect_port(&self, port: u16, stream: String) -> Result<(), AgentError> {
        let request = ConnectPortRequest {
            port: port.into(),
            stream,
            ..ConnectPortRequest::default()
        };
        self.client.connect_port(Context::default(), &request).await?;
        Ok(())
    }

    /// Replaces the guest's copy of a volume by what is in the volume's folder `data` now.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn update_volume(
        &self,
        volume: &Volume,
        paths: GuestPaths<'_>,
        data: String,
    ) -> Result<(), AgentError> {
        let request = UpdateVolumeRequest {
            volume: MessageField::some(volume_of(volume, paths)),
            data,
            ..UpdateVolumeRequest::default()
        };
        self.client.update_volume(Context::default(), &request).await?;
        Ok(())
    }

    /// Has the guest let go of those of `disks` that no container has any more. Returns them.
    ///
    /// # Errors
    /// The guest's kernel keeps one.
    pub async fn release_disks(&self, disks: Vec<String>) -> Result<Vec<String>, AgentError> {
        let request = ReleaseDisksRequest {
            disks,
            ..ReleaseDisksRequest::default()
        };
        let released = self.client.release_disks(Context::default(), &request).await?;
        Ok(released.disks)
    }

    /// Forgets an ended container, and removes all that it has in the guest.
    ///
    /// # Errors
    /// It still runs, or there is none.
    pub async fn delete(&self, id: &str) -> Result<(), AgentError> {
        let request = DeleteRequest {
            container_id: id.to_owned(),
            ..DeleteRequest::default()
        };
        self.client.delete(Context::default(), &request).await?;
        Ok(())
    }

    /// Has the guest end everything, write everything back, and switch itself off.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn shut_down(&self) -> Result<(), AgentError> {
        self.client
            .shutdown(Context::default(), &ShutdownRequest::default())
            .await?;
        Ok(())
    }

    /// Tells a container's terminal its size.
    ///
    /// # Errors
    /// It has no terminal, or has ended.
    pub async fn resize(&self, id: &str, rows: u32, columns: u32) -> Result<(), AgentError> {
        let container_id = id.to_owned();
        let request = ResizeTerminalRequest {
            container_id,
            rows,
            columns,
            ..ResizeTerminalRequest::default()
        };
        self.client.resize_terminal(Context::default(), &request).await?;
        Ok(())
    }
}

fn memory_for_volumes() -> Storage {
    Storage {
        source: "volumes".to_owned(),
        fstype: "tmpfs".to_owned(),
        target: VOLUME_FOLDER.to_owned(),
        options: ["nosuid", "nodev", "mode=755"].map(str::to_owned).to_vec(),
        ..Storage::default()
    }
}

fn volume_of(volume: &Volume, paths: GuestPaths<'_>) -> messages::Volume {
    messages::Volume {
        source: paths.mount_in_guest(volume.index),
        target: paths.volume_in_guest(volume.index),
        ..messages::Volume::default()
    }
}

fn memory(memory: &SharedMemory) -> Storage {
    Storage {
        source: "shm".to_owned(),
        fstype: "tmpfs".to_owned(),
        target: memory.folder(),
        options: memory.options(),
        ..Storage::default()
    }
}

/// The file system of a mount that has a disk for its source, if the disk itself is not what is mounted.
fn file_system(container: &str, mount: &DiskMount) -> Option<Storage> {
    let (kind, options) = mount.file_system.as_ref()?;
    Some(Storage {
        source: mount.disk.clone(),
        fstype: kind.clone(),
        target: disk_folder(container, mount.index),
        options: options.clone(),
        ..Storage::default()
    })
}

fn described(disk: &Disk, slot: Option<u32>) -> messages::Disk {
    messages::Disk {
        id: disk.id.clone(),
        major: disk.number.0,
        minor: disk.number.1,
        mode: disk.mode,
        uid: disk.owner.0,
        gid: disk.owner.1,
        slot,
        ..messages::Disk::default()
    }
}
