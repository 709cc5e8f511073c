//! Pods and their containers.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::cri::Status;
use crate::cri::messages::{
    ContainerRequest, ContainerState, ContainerStatus, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, Empty, ExecSyncRequest, ExecSyncResponse, PodSandboxRequest, PodSandboxState,
    PodSandboxStatus, PodSandboxStatusResponse, StopContainerRequest,
};
use crate::node::{BUSYBOX, Node};

/// A pod that has run.
pub struct Pod<'n> {
    /// The node it is on.
    pub node: &'n Node,
    /// The sandbox's id.
    pub id: String,
    /// What it was made from.
    pub config: Value,
    /// Its cgroup's folder.
    pub cgroup: PathBuf,
    containers: AtomicU32,
}

impl<'n> Pod<'n> {
    pub(crate) fn new(node: &'n Node, id: String, config: Value, cgroup: PathBuf) -> Self {
        Self {
            node,
            id,
            config,
            cgroup,
            containers: AtomicU32::new(0),
        }
    }

    /// Creates a container; `edit` changes its default configuration, which has no program but the image's.
    ///
    /// # Errors
    /// The runtime's.
    #[track_caller]
    pub fn try_create(&self, edit: impl FnOnce(&mut Value)) -> Result<Container<'_>, Status> {
        let number = self.containers.fetch_add(1, Ordering::Relaxed);
        let mut config = json!({
            "metadata": {"name": format!("container-{number}")},
            "image": {"image": BUSYBOX},
            "log_path": format!("{number}.log"),
            "linux": {
                "resources": {},
                "security_context": {"namespace_options": {"pid": "CONTAINER"}},
            },
        });
        edit(&mut config);
        let log = PathBuf::from(self.config["log_directory"].as_str().expect("a path"))
            .join(config["log_path"].as_str().expect("a path"));
        let request = json!({"pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config});
        self.node
            .call::<CreateContainerRequest, CreateContainerResponse>("CreateContainer", &request)
            .map(|response| Container {
                pod: self,
                id: response.container_id,
                log,
            })
    }

    /// Creates a container, as [`Pod::try_create`], and starts it.
    ///
    /// # Panics
    /// It does not start.
    #[track_caller]
    pub fn run_with(&self, edit: impl FnOnce(&mut Value)) -> Container<'_> {
        let container = self.try_create(edit).unwrap_or_else(|status| panic!("{status}"));
        container.start().unwrap_or_else(|status| panic!("{status}"));
        container
    }

    /// Creates and starts a container that runs the shell script.
    ///
    /// # Panics
    /// It does not start.
    #[track_caller]
    pub fn run(&self, script: &str) -> Container<'_> {
        self.run_with(|config| config["command"] = json!(["sh", "-c", script]))
    }

    /// What the runtime says of it.
    ///
    /// # Panics
    /// It says nothing.
    #[track_caller]
    pub fn status(&self) -> PodSandboxStatus {
        let response: PodSandboxStatusResponse = self
            .call::<PodSandboxStatusResponse>("PodSandboxStatus")
            .expect("the pod is known");
        response.status.into_option().expect("a status")
    }

    /// Whether the runtime says that it is ready.
    #[track_caller]
    pub fn is_ready(&self) -> bool {
        self.status().state.enum_value() == Ok(PodSandboxState::SANDBOX_READY)
    }

    /// Its addresses, that of version 4 first.
    #[track_caller]
    pub fn addresses(&self) -> Vec<String> {
        let network = self.status().network.unwrap_or_default();
        let others = network.additional_ips.into_iter().map(|address| address.ip);
        [network.ip].into_iter().chain(others).collect()
    }

    /// Stops it, with all containers.
    ///
    /// # Panics
    /// The runtime refuses.
    #[track_caller]
    pub fn stop(&self) {
        let stopped = self.call::<Empty>("StopPodSandbox");
        stopped.unwrap_or_else(|status| panic!("{status}"));
    }

    /// Stops and removes it, with all containers, and then its cgroup.
    ///
    /// # Panics
    /// The runtime refuses, or leaves something in the cgroup.
    #[track_caller]
    pub fn remove(self) {
        self.stop();
        let removed = self.call::<Empty>("RemovePodSandbox");
        removed.unwrap_or_else(|status| panic!("{status}"));
        fs::remove_dir(&self.cgroup)
            .unwrap_or_else(|error| panic!("{} cannot be removed: {error}", self.cgroup.display()));
    }

    #[track_caller]
    fn call<A: protobuf::MessageFull>(&self, method: &str) -> Result<A, Status> {
        self.node
            .call::<PodSandboxRequest, A>(method, &json!({"pod_sandbox_id": self.id}))
    }
}

/// A container of a pod.
pub struct Container<'p> {
    pod: &'p Pod<'p>,
    /// Its id.
    pub id: String,
    /// The file of its output.
    pub log: PathBuf,
}

impl Container<'_> {
    /// Starts it.
    ///
    /// # Errors
    /// The runtime's.
    #[track_caller]
    pub fn start(&self) -> Result<(), Status> {
        self.call::<Empty>("StartContainer").map(drop)
    }

    /// What the runtime says of it.
    ///
    /// # Panics
    /// It says nothing.
    #[track_caller]
    pub fn status(&self) -> ContainerStatus {
        let response: ContainerStatusResponse = self
            .call::<ContainerStatusResponse>("ContainerStatus")
            .expect("the container is known");
        response.status.into_option().expect("a status")
    }

    /// Whether the runtime says that it runs.
    #[track_caller]
    pub fn is_running(&self) -> bool {
        self.status().state.enum_value() == Ok(ContainerState::CONTAINER_RUNNING)
    }

    /// Waits until it has ended, and says how.
    ///
    /// # Panics
    /// That takes too long.
    #[track_caller]
    pub fn wait(&self) -> ContainerStatus {
        self.pod.node.wait_for("the container's end", || {
            let status = self.status();
            (status.state.enum_value() == Ok(ContainerState::CONTAINER_EXITED)).then_some(status)
        })
    }

    /// Waits until it has ended with 0, and gives what it wrote to stdout.
    ///
    /// # Panics
    /// It ends otherwise, or writes to stderr.
    #[track_caller]
    pub fn success(&self) -> String {
        let status = self.wait();
        let stderr = self.output("stderr");
        assert_eq!((status.exit_code, stderr.as_str()), (0, ""), "{status}");
        self.output("stdout")
    }

    /// What it has written up to now, `stream` being `stdout` or `stderr`.
    ///
    /// # Panics
    /// The log has a line that is not of the interface's format.
    #[track_caller]
    pub fn output(&self, stream: &str) -> String {
        let log = fs::read(&self.log).expect("the container's log");
        let log = String::from_utf8_lossy(&log);
        let mut output = String::new();
        for line in log.lines() {
            let mut words = line.splitn(4, ' ');
            let (Some(_time), Some(of), Some(tag), Some(text)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                panic!("{line:?} is no line of a container's log");
            };
            if of == stream {
                output.push_str(text);
                if tag == "F" {
                    output.push('\n');
                }
            }
        }
        output
    }

    /// Waits until `text` is in what it wrote to stdout.
    ///
    /// # Panics
    /// That takes too long.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.pod
            .node
            .wait_for(text, || self.output("stdout").contains(text).then_some(()));
    }

    /// Runs a program in it, for at most so many seconds; 0 is without a limit.
    ///
    /// # Errors
    /// The runtime's.
    #[track_caller]
    pub fn try_exec(&self, command: &[&str], seconds: u32) -> Result<ExecSyncResponse, Status> {
        let request = json!({"container_id": self.id, "cmd": command, "timeout": seconds});
        self.pod
            .node
            .call::<ExecSyncRequest, ExecSyncResponse>("ExecSync", &request)
    }

    /// Runs a shell script in it, and gives what it wrote to stdout.
    ///
    /// # Panics
    /// It does not end with 0, or writes to stderr.
    #[track_caller]
    pub fn exec(&self, script: &str) -> String {
        let response = self
            .try_exec(&["sh", "-c", script], 0)
            .unwrap_or_else(|status| panic!("{status}"));
        let stderr = String::from_utf8_lossy(&response.stderr);
        assert_eq!((response.exit_code, &*stderr), (0, ""), "{script}");
        String::from_utf8_lossy(&response.stdout).into_owned()
    }

    /// Asks it to end, and makes it after so many seconds.
    ///
    /// # Panics
    /// The runtime refuses.
    #[track_caller]
    pub fn stop(&self, seconds: u32) {
        let request = json!({"container_id": self.id, "timeout": seconds});
        self.pod
            .node
            .call::<StopContainerRequest, Empty>("StopContainer", &request)
            .unwrap_or_else(|status| panic!("{status}"));
    }

    /// Removes it.
    ///
    /// # Panics
    /// The runtime refuses.
    #[track_caller]
    pub fn remove(self) {
        self.call::<Empty>("RemoveContainer")
            .unwrap_or_else(|status| panic!("{status}"));
    }

    /// Calls a method of the runtime's service that takes nothing but the container.
    ///
    /// # Errors
    /// The runtime's.
    #[track_caller]
    pub fn call<A: protobuf::MessageFull>(&self, method: &str) -> Result<A, Status> {
        self.pod
            .node
            .call::<ContainerRequest, A>(method, &json!({"container_id": self.id}))
    }
}
