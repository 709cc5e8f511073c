//! containerd with `bulkhead` as its runtime.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::bulkhead::{Invocation, Running};
use super::image::{self, Image};
use super::leaks::entries;
use super::{Host, LIMIT, artifacts, daemon, seclusion};

/// What containerd knows the runtime by: bulkhead's name, unless `BULKHEAD_CONTAINERD_RUNTIME` says another one, to see
/// what containerd does with that.
pub static RUNTIME: LazyLock<String> = LazyLock::new(|| {
    env::var("BULKHEAD_CONTAINERD_RUNTIME").unwrap_or_else(|_| "io.containerd.bulkhead.v2".into())
});

/// The folder that `BULKHEAD_CONTAINERD` names, to see what another version of containerd does; else that is found in PATH.
static PROGRAMS: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| env::var_os("BULKHEAD_CONTAINERD").map(PathBuf::from));

/// Who makes pods' sandboxes, where containerd is 2.x and `BULKHEAD_CONTAINERD_SANDBOXER` says it: with `shim`, the runtime's shim by
/// its sandbox service.
static SANDBOXER: LazyLock<String> = LazyLock::new(|| match env::var("BULKHEAD_CONTAINERD_SANDBOXER") {
    Ok(sandboxer) => format!("sandboxer = \"{sandboxer}\""),
    Err(_) => String::new(),
});

/// Pods have addresses of this network, and the host its first one.
pub const NETWORK: &str = "10.88.0.0/16";
/// The same for version 6.
pub const NETWORK_V6: &str = "fd00:88::/64";

/// Where containerd listens, and its client looks.
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Where Debian has the plugins that make pods' networks.
const PLUGINS: &str = "/usr/lib/cni";
/// Where those keep what they have made.
const NETWORK_STATE: &str = "/var/lib/cni";
/// Where bulkhead has its configuration: containerd does not name another place.
const SETTINGS: &str = "/etc/bulkhead";
/// The bridge of [`NETWORK`]. It stays when the last pod has gone.
const BRIDGE: &str = "cni0";
/// The program that containerd starts for the runtime.
const SHIM: &str = "containerd-shim-bulkhead-v2";
/// Folders that are empty if no container is.
const STATE: [&str; 5] = [
    "/run/bulkhead",
    "/run/containerd/fifo",
    "/run/containerd/s",
    "/run/containerd/io.containerd.grpc.v1.cri/sandboxes",
    "/run/netns",
];
/// The cgroup below which containerd makes those of containers, by namespace. They stay.
const CGROUPS: &str = "/sys/fs/cgroup";
/// In each, one folder a namespace, which is empty if no container is.
const TASKS: [&str; 2] = [
    "/run/containerd/io.containerd.runtime.v2.task",
    "/run/containerd/bulkhead",
];

/// A program of containerd's.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    PROGRAMS
        .as_deref()
        .map_or_else(|| name.into(), |folder| folder.join(name))
}

/// A containerd of the test's own, secluded from the machine's. Dropping it ends it and fails the test if anything is
/// left of containers; those are the test's to remove.
pub struct Containerd {
    /// None while it is down.
    daemon: Mutex<Option<Running>>,
    mounts: BTreeSet<String>,
    namespace: String,
    host: Host,
}

impl Containerd {
    /// Starts one, with an image for the containers of pods' sandboxes, and with these images in its namespace
    /// `namespace`: Kubernetes' is `k8s.io`.
    ///
    /// # Panics
    /// containerd is not installed or does not start.
    #[must_use]
    pub fn new(namespace: &str, images: &[Image]) -> Self {
        const PAUSE: &str = "localhost/pause:1";
        let host = Host::new();
        let storage = host.folder().join("storage");
        seclusion::seclude(&storage);
        for folder in [NETWORK_STATE, SETTINGS] {
            fs::create_dir_all(folder).expect("a folder of the machine");
            seclusion::mount_tmpfs(Path::new(folder));
        }
        let settings = Path::new(SETTINGS).join("config.toml");
        fs::write(settings, host.settings.to_string()).expect("bulkhead's configuration");
        let network = host.directory("network");
        fs::write(network.join("10-test.conflist"), network_list().to_string()).expect("CNI's configuration");
        symlink(artifacts::bulkhead(), host.directory("bin").join(SHIM)).expect("the shim's name");
        host.file(
            "containerd.toml",
            format!(
                r#"
version = 2
root = "{storage}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
path = "{storage}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{network}"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "test"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test]
runtime_type = "{runtime}"
{sandboxer}
privileged_without_host_devices = true
pod_annotations = ["dev.bulkhead.vm.*"]
"#,
                storage = storage.display(),
                network = network.display(),
                runtime = *RUNTIME,
                sandboxer = *SANDBOXER,
            ),
        );
        let mut containerd = Self {
            daemon: Mutex::new(None),
            mounts: BTreeSet::new(),
            namespace: namespace.to_owned(),
            host,
        };
        containerd.start();
        let pause = Image::new(PAUSE, &["sleep", "1000000"]);
        let images = image::images_archive(containerd.host.folder(), &[images, &[pause]].concat());
        containerd
            .ctr(["--namespace", namespace, "image", "import"])
            .arg(images)
            .output()
            .with_code(0);
        containerd.mounts = mounts();
        containerd
    }

    /// Starts it again, on what it has left.
    ///
    /// # Panics
    /// It is up, or does not come up.
    pub fn start(&self) {
        let mut daemon = self.daemon();
        assert!(daemon.is_none(), "containerd is up");
        let path = env::join_paths(
            [self.host.folder().join("bin")]
                .into_iter()
                .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        );
        let mut path_assignment = OsString::from("PATH=");
        path_assignment.push(path.expect("the test's folder has a simple name"));
        let settings = self.host.folder().join("containerd.toml");
        let program = program("containerd");
        let arguments: [&OsStr; 4] = [
            &path_assignment,
            program.as_ref(),
            "--config".as_ref(),
            settings.as_ref(),
        ];
        *daemon = Some(daemon::start("env", arguments, "containerd successfully booted"));
    }

    /// Ends it: by SIGTERM, as a service manager does, or by SIGKILL.
    ///
    /// # Panics
    /// It is down.
    pub fn stop(&self, signal: Signal) {
        let daemon = self.daemon().take().expect("containerd is up");
        daemon.signal(signal);
        let _ = daemon.wait();
    }

    /// `ctr` with these arguments.
    #[must_use]
    pub fn ctr<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        let mut command = Command::new(program("ctr"));
        command.args(args);
        Invocation::new(command)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        SOCKET.into()
    }

    /// The host it is on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What is there although no container is, and does not go: the removal of the last container's files is not waited for
    /// by who asks for it.
    ///
    /// # Panics
    /// /proc is not mounted.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = self.left_now();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn left_now(&self) -> Vec<String> {
        let namespaces = TASKS.into_iter().flat_map(entries);
        let files = STATE
            .into_iter()
            .map(PathBuf::from)
            .chain(namespaces)
            .flat_map(entries)
            .map(|path| path.display().to_string());
        let interfaces = seclusion::interfaces()
            .into_iter()
            .filter(|name| !["lo", BRIDGE].contains(&name.as_str()))
            .map(|name| format!("network interface {name}"));
        let mounts = mounts();
        let mounts = mounts
            .difference(&self.mounts)
            .map(|mount| format!("mount {mount}"));
        files.chain(interfaces).chain(mounts).collect()
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Running>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if thread::panicking() {
            // Whatever this leaves, the host names and removes.
            if let Some(daemon) = &*self.daemon() {
                eprintln!("containerd says:\n{}", daemon.output_so_far());
            }
            return;
        }
        let left = self.leftovers();
        if self.daemon().is_some() {
            self.stop(Signal::SIGTERM);
        }
        // What is still in it is what the host finds left behind.
        let _ = fs::remove_dir(Path::new(CGROUPS).join(&self.namespace));
        assert!(
            left.is_empty(),
            "containerd left behind:\n    {}",
            left.join("\n    ")
        );
    }
}

/// A bridge with addresses of both versions, and ports of the host that lead to pods.
fn network_list() -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "test",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": NETWORK}], [{"subnet": NETWORK_V6}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The mounts that the calling thread sees.
fn mounts() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("/proc is mounted");
    mounts.lines().map(str::to_owned).collect()
}
