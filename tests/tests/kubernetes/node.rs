//! A node of a cluster: containerd, and what the kubelet does with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_tests::harness::{Containerd, Image, LIMIT};
use serde_json::{Value, json};

use crate::cri::messages::{
    Empty, ImageStatusRequest, ImageStatusResponse, ListPodSandboxResponse, RunPodSandboxRequest,
    RunPodSandboxResponse,
};
use crate::cri::{self, Status};
use crate::pod::Pod;

/// The image of most containers.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// The name under which containerd knows the runtime, as a `RuntimeClass` has it for its handler.
const HANDLER: &str = "test";
/// The pods' cgroups are in it.
const CGROUPS: &str = "/sys/fs/cgroup/test-pods";
/// How long to wait before looking again; the interface tells nobody of changes.
const INTERVAL: Duration = Duration::from_millis(100);

/// A node without pods. Those that tests make are the tests' to remove.
pub struct Node {
    /// Its containerd.
    pub containerd: Containerd,
    pods: AtomicU32,
}

impl Node {
    /// Makes one with [`BUSYBOX`].
    pub fn new() -> Self {
        Self::with_images(&[])
    }

    /// Makes one with these images too.
    ///
    /// # Panics
    /// It does not come up.
    pub fn with_images(images: &[Image]) -> Self {
        let images = [images, &[Image::new(BUSYBOX, &["sh"])]].concat();
        let node = Self {
            containerd: Containerd::new("k8s.io", &images),
            pods: AtomicU32::new(0),
        };
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").expect("cgroup version 2");
        let controllers: String = controllers
            .split_whitespace()
            .map(|name| format!("+{name} "))
            .collect();
        fs::create_dir(CGROUPS).expect("the cgroup of the pods");
        for cgroup in ["/sys/fs/cgroup", CGROUPS] {
            fs::write(Path::new(cgroup).join("cgroup.subtree_control"), &controllers).expect("controllers");
        }
        for image in &images {
            node.wait_for(&image.name, || node.has_image(&image.name).then_some(()));
        }
        node
    }

    /// Starts containerd again, and waits until it takes the kubelet's requests.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(&self) {
        self.containerd.start();
        self.wait_for("the runtime's service", || {
            self.call::<Empty, ListPodSandboxResponse>("ListPodSandbox", &json!({}))
                .ok()
        });
    }

    /// Runs a pod; `edit` changes its default configuration.
    ///
    /// # Errors
    /// The runtime's.
    #[track_caller]
    pub fn try_pod(&self, edit: impl FnOnce(&mut Value)) -> Result<Pod<'_>, Status> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let name = format!("pod-{number}");
        let logs = self.containerd.host().directory(&format!("logs-{number}"));
        let cgroup = Path::new(CGROUPS).join(&name);
        fs::create_dir(&cgroup).expect("the pod's cgroup");
        let mut config = json!({
            "metadata": {"name": name, "uid": format!("uid-{number}"), "namespace": "default"},
            "hostname": name,
            "log_directory": logs,
            "linux": {
                "cgroup_parent": format!("/test-pods/{name}"),
                "security_context": {"namespace_options": {"pid": "CONTAINER"}},
            },
        });
        edit(&mut config);
        let request = json!({"config": config, "runtime_handler": HANDLER});
        let run = self.call::<RunPodSandboxRequest, RunPodSandboxResponse>("RunPodSandbox", &request);
        match run {
            Ok(response) => Ok(Pod::new(self, response.pod_sandbox_id, config, cgroup)),
            Err(status) => {
                fs::remove_dir(&cgroup).expect("the cgroup of a pod that never ran is empty");
                Err(status)
            }
        }
    }

    /// Runs a pod; `edit` changes its default configuration.
    ///
    /// # Panics
    /// It does not run.
    #[track_caller]
    pub fn pod(&self, edit: impl FnOnce(&mut Value)) -> Pod<'_> {
        self.try_pod(edit).unwrap_or_else(|status| panic!("{status}"))
    }

    /// A new folder on the node, for volumes.
    pub fn volume(&self, name: &str) -> PathBuf {
        let folder = self.containerd.host().directory(name);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("a folder of the test's own");
        folder
    }

    /// Calls a method of the runtime's service.
    ///
    /// # Errors
    /// The runtime's.
    #[track_caller]
    pub fn call<Q: protobuf::MessageFull, A: protobuf::MessageFull>(
        &self,
        method: &str,
        request: &Value,
    ) -> Result<A, Status> {
        cri::runtime::<Q, A>(&self.containerd.socket(), method, request)
    }

    /// Looks until `look` sees something.
    ///
    /// # Panics
    /// That takes longer than [`LIMIT`].
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "{what} has not come");
            thread::sleep(INTERVAL);
        }
    }

    fn has_image(&self, name: &str) -> bool {
        let request = json!({"image": {"image": name}});
        cri::image::<ImageStatusRequest, ImageStatusResponse>(
            &self.containerd.socket(),
            "ImageStatus",
            &request,
        )
        .is_ok_and(|response| response.image.is_some())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is still in it is what the host finds left behind.
        let _ = fs::remove_dir(CGROUPS);
    }
}
