//! Many pods: at once, and one after the other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::harness::{Bundle, cycles, processes};
use nix::unistd::Pid;
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    SIGKILL,
    containerd::{Containerd, Shim},
    member,
};

/// A network namespace in which pods are, one after the other.
pub struct Network(String);

impl Network {
    fn new() -> Self {
        let network = Self(format!("test-{}", std::process::id()));
        network.run("ip", &["netns", "add", &network.0]);
        network.ip("link add eth0 type dummy");
        network.ip("address add 10.77.0.2/24 dev eth0");
        network.ip("link set eth0 up");
        network.ip("link set lo up");
        network
    }

    fn ip(&self, command: &str) -> String {
        let words: Vec<&str> = ["-n", &self.0].into_iter().chain(command.split(' ')).collect();
        self.run("ip", &words)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// Its interfaces and their queues.
    fn interfaces(&self) -> String {
        self.ip("-oneline link show") + &self.run("tc", &["-n", &self.0, "qdisc", "show"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}

/// The bundle of a pod.
pub fn pod(containerd: &Containerd, id: &str, network: Option<&Network>) -> Bundle {
    containerd.host.bundle(|config| {
        config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": id,
        });
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "network");
        let path = network.map(Network::path).unwrap_or_default();
        namespaces.push(json!({"type": "network", "path": path}));
    })
}

/// Ends a pod, and its shim with it.
async fn end(shim: &Shim, id: &str) {
    shim.kill(id, "", SIGKILL).await.expect("sent");
    assert_eq!(shim.wait(id, "").await, 128 + SIGKILL);
    shim.delete(id, "").await.expect("deleted");
    shim.leave().await;
}

#[tokio::test(flavor = "current_thread")]
async fn twenty_pods_at_once_all_come_up() {
    const PODS: usize = 20;
    let mut containerd = Containerd::new().await;
    containerd.host.settings.insert("memory_mib".into(), 64.into());
    // All of them have to boot on what may be one emulated processor.
    containerd
        .host
        .settings
        .insert("boot_timeout_seconds".into(), 600.into());
    let mut starting = JoinSet::new();
    for _ in 0..PODS {
        let id = containerd.host.new_id();
        let bundle = pod(&containerd, &id, None);
        let shim = containerd.start(&bundle, &id).await;
        let creation = containerd.creation(&bundle, &id);
        starting.spawn(async move {
            shim.run(&creation).await;
            (shim, id)
        });
    }
    let running = starting.join_all().await;
    let machines = processes::descendants(Pid::this())
        .into_iter()
        .filter(|pid| processes::name(*pid).as_deref() == Some("bulkhead-vmm"));
    assert_eq!(machines.count(), PODS);
    let mut ending = JoinSet::new();
    for (shim, id) in running {
        ending.spawn(async move { end(&shim, &id).await });
    }
    ending.join_all().await;
}

/// Everything below folders in which something could be left.
fn files() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = ["/run", "/dev/shm", "/sys/fs/cgroup", "/tmp"]
        .map(PathBuf::from)
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

/// The memory that nobody gets unless somebody lets go of it, in KiB.
fn memory() -> u64 {
    const FIELDS: [&str; 6] = [
        "AnonPages",
        "Shmem",
        "SUnreclaim",
        "KernelStack",
        "PageTables",
        "Percpu",
    ];
    let memory = fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let fields = memory.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        FIELDS.contains(&name).then(|| {
            value
                .trim()
                .trim_end_matches(" kB")
                .parse::<u64>()
                .expect("a number")
        })
    });
    fields.sum()
}

#[tokio::test(flavor = "current_thread")]
async fn cycles_leave_nothing() {
    /// More than a machine's noise, and less than the least that something would leave each time: a page.
    const NOISE: u64 = 4 << 10;
    let cycles = cycles();
    // The folder of named namespaces is the machine's, and stays.
    let network = Network::new();
    let mut containerd = Containerd::new().await;
    // Hours on a machine that does other things, too, have slow minutes.
    containerd
        .host
        .settings
        .insert("boot_timeout_seconds".into(), 600.into());
    let interfaces = network.interfaces();
    // The first cycles make what is made once: folders, caches.
    let warm = cycles / 2;
    let (mut all, mut memory_then) = (BTreeSet::new(), 0);
    for cycle in 1..=cycles {
        eprintln!("cycle {cycle}");
        let id = containerd.host.new_id();
        let bundle = pod(&containerd, &id, Some(&network));
        let shim = containerd.start(&bundle, &id).await;
        shim.run(&containerd.creation(&bundle, &id)).await;
        let inside = containerd.host.new_id();
        let second = member(&containerd, &id, "ip address show eth0 | grep -q 10.77.0.2");
        shim.run(&containerd.creation(&second, &inside)).await;
        assert_eq!(shim.wait(&inside, "").await, 0);
        assert_eq!(shim.delete(&inside, "").await.expect("deleted"), 0);
        end(&shim, &id).await;
        for bundle in [bundle, second] {
            fs::remove_dir_all(bundle.folder()).expect("the test's own");
        }
        assert_eq!(network.interfaces(), interfaces, "cycle {cycle}");
        if cycle == warm {
            (all, memory_then) = (files(), memory());
        }
    }
    let now = files();
    let new: Vec<_> = now.difference(&all).collect();
    assert!(new.is_empty(), "left behind: {new:#?}");
    let grown = memory().saturating_sub(memory_then);
    assert!(
        grown < NOISE,
        "{grown} KiB more memory is in use after {} cycles",
        cycles - warm
    );
}
