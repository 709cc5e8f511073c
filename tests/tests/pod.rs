//! A pod by CRI's annotations: a container that stands for it and runs nothing, and containers that share what it holds.

use std::fs;

use bulkhead_tests::harness::{Bundle, Container, Host, LIMIT, processes};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::WaitStatus;
use serde_json::{Value, json};

const TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// As CRI describes a pod: the program is one that its image has, and no pod here has an image.
fn pod_of(change: impl FnOnce(&mut Value)) -> impl FnOnce(&mut Value) {
    |config| {
        config["annotations"] = json!({TYPE: "sandbox", SANDBOX: "pod"});
        config["process"]["args"] = json!(["/pause"]);
        config["hostname"] = json!("the-pod");
        config["linux"]["resources"] = json!({"cpu": {"shares": 2}});
        change(config);
    }
}

fn pod(host: &Host, change: impl FnOnce(&mut Value)) -> Container<'_> {
    host.started(&host.bundle(pod_of(change)))
}

/// A container that shares the pod's namespaces, `pid` too if that is asked for.
fn member(host: &Host, pod: &Container, kinds: &[(&str, &str)], script: &str) -> Bundle {
    let shared = kinds
        .iter()
        .map(|(kind, file)| json!({"type": kind, "path": format!("/proc/{}/ns/{file}", pod.pid)}));
    let namespaces: Vec<_> = [json!({"type": "mount"})].into_iter().chain(shared).collect();
    host.bundle(|config| {
        config["annotations"] = json!({TYPE: "container", SANDBOX: pod.id});
        config["linux"]["namespaces"] = json!(namespaces);
        config.as_object_mut().unwrap().remove("hostname");
        config["process"]["args"] = json!(["sh", "-c", script]);
    })
}

const POD: [(&str, &str); 3] = [("ipc", "ipc"), ("uts", "uts"), ("network", "net")];

/// A host's tmpfs, while it lives.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(path: std::path::PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let options = Some("size=1m,mode=1777");
        mount(Some("shm"), &path, Some("tmpfs"), MsFlags::empty(), options).unwrap();
        Self(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_pod_runs_nothing_and_its_containers_share_what_it_holds() {
    let host = Host::new();
    let pod = pod(&host, |config| {
        config["linux"]["sysctl"] = json!({"kernel.msgmax": "4242"});
    });
    assert_eq!(pod.status(), "running");
    let shm = Tmpfs::mount(host.folder().join("shm"));
    let with_memory = |script: &str| {
        let bundle = member(&host, &pod, &POD, script);
        let mut config: Value = serde_json::from_slice(&fs::read(bundle.config()).unwrap()).unwrap();
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/dev/shm");
        let options = ["rbind", "rw", "nosuid", "noexec"];
        mounts.push(json!({"destination": "/dev/shm", "type": "bind", "source": shm.0, "options": options}));
        bundle.write_config(config.to_string().as_bytes());
        host.create(&bundle)
    };
    let first = with_memory(
        "hostname; cat /proc/sys/kernel/msgmax; echo kept > /dev/shm/file; df -k /dev/shm | tail -1 | awk '{print $2}'; exit 3",
    );
    first.start();
    assert_eq!(
        first.wait(),
        WaitStatus::Exited(first.pid, 3),
        "{}",
        first.stderr()
    );
    assert_eq!(first.stdout(), "the-pod\n4242\n1024\n");
    first.delete();

    // The last of its containers has ended, and the next one finds what it left.
    let again = with_memory("cat /dev/shm/file");
    again.start();
    assert_eq!(
        again.wait(),
        WaitStatus::Exited(again.pid, 0),
        "{}",
        again.stderr()
    );
    assert_eq!(again.stdout(), "kept\n");
    again.delete();
    assert_eq!(
        fs::read_dir(&shm.0).unwrap().count(),
        0,
        "nothing of it is on the host"
    );

    // What needs a program says that there is none.
    let refused = pod.exec(&[], &["true"]).output().with_code(255);
    assert!(refused.stderr().contains("no program runs"), "{refused:?}");
    pod.kill("TERM");
    assert_eq!(pod.wait(), WaitStatus::Exited(pod.pid, 0));
    pod.delete();
}

#[test]
fn process_ids_are_shared_in_a_pod_and_orphans_are_collected() {
    let host = Host::new();
    let pod = pod(&host, |_| {});
    let kinds: Vec<_> = POD.into_iter().chain([("pid", "pid")]).collect();
    let long = host.started(&member(&host, &pod, &kinds, "exec sleep 100000"));
    // An orphan's parent is the pod's first process, which waits for it.
    let script = "ps -o pid,args | grep -c '[s]leep 100000'; (sleep 0 &); sleep 1; \
                  ps -o stat | grep -c Z; test $$ != 1 && echo not-first";
    let other = host.started(&member(&host, &pod, &kinds, script));
    let _ = other.wait();
    assert_eq!(other.stdout(), "1\n0\nnot-first\n", "{}", other.stderr());
    other.delete();
    pod.kill("KILL");
    assert_eq!(
        long.wait(),
        WaitStatus::Signaled(long.pid, nix::sys::signal::Signal::SIGKILL, false)
    );
    let _ = pod.wait();
    long.delete();
    pod.delete();
}

#[test]
fn of_two_who_remove_a_container_at_once_neither_fails() {
    let host = Host::new();
    let pod = pod(&host, |_| ());
    for _ in 0..3 {
        let container = host.started(&member(&host, &pod, &POD, "exec sleep 1000"));
        let removals = [(); 2].map(|()| container.command("delete").arg("--force").spawn());
        for removal in removals {
            assert_eq!(removal.wait().success(), "");
        }
        assert!(processes::wait_until_gone(container.pid, LIMIT));
    }
    pod.discard();
}

#[test]
fn a_container_that_is_killed_while_it_reads_ends() {
    let host = Host::new();
    let pod = pod(&host, |_| ());
    for _ in 0..6 {
        let bundle = member(&host, &pod, &POD, "echo reading; exec cat large > /dev/null");
        let large = fs::File::create(bundle.rootfs().join("large"));
        large.and_then(|file| file.set_len(1 << 32)).unwrap();
        let container = host.started(&bundle);
        container.wait_for("reading");
        // Pages that nobody will look at any more are on their way, and the file that they are of is held until then.
        container.kill("KILL");
        assert_eq!(
            container.wait(),
            WaitStatus::Signaled(container.pid, nix::sys::signal::Signal::SIGKILL, false)
        );
        container.delete();
    }
    pod.discard();
}

#[test]
fn a_pod_is_as_big_as_its_limits_and_shares_nothing_with_the_host() {
    let host = Host::new();
    let pod = pod(&host, |config| {
        config["annotations"]["io.kubernetes.cri.sandbox-memory"] = json!("402653184");
    });
    let script = "awk '/MemTotal/ {print ($2 > 380000 && $2 < 460000)}' /proc/meminfo";
    let sized = host.started(&member(&host, &pod, &POD, script));
    let _ = sized.wait();
    assert_eq!(sized.stdout(), "1\n");
    sized.delete();
    pod.kill("KILL");
    let _ = pod.wait();
    pod.delete();

    let create = |change: fn(&mut Value)| {
        let bundle = host.bundle(pod_of(change));
        let create = host.bulkhead().args(["create", "--bundle"]).arg(bundle.folder());
        create.arg("refused").output().refusal()
    };
    let refused = create(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
    });
    assert!(refused.contains("hostNetwork"), "{refused}");
    let refused = create(|config| {
        config["annotations"]["io.kubernetes.cri.sandbox-memory"] = json!("much");
    });
    assert!(
        refused.contains("annotations.io.kubernetes.cri.sandbox-memory"),
        "{refused}"
    );
}
