//! What the agent does to a container as a whole, asked for as the runtime asks, and what it tells of it.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use bulkhead_agent_protocol::SHARED_FOLDER;
use bulkhead_agent_protocol::messages::{
    ListProcessesRequest, PauseRequest, ProcessInfo, ResumeRequest, StatsRequest, UpdateResourcesRequest,
    WaitOomRequest,
};
use bulkhead_tests::harness::Host;
use bulkhead_vmm::control::{Request, Response};
use serde_json::{Value, json};
use tokio::time::timeout;
use ttrpc::{Code, context::Context};

use super::microvm::{Agent, MicroVm};
use super::{shared_folder, spec};

/// How long a frozen process is given to do something, which it must not.
const PATIENCE: Duration = Duration::from_millis(500);

fn start(host: &Host) -> MicroVm {
    let bundle = host.bundle(|_| {});
    MicroVm::start(host, bundle.folder(), |launch| {
        launch.filesystem = Some(bulkhead_agent_protocol::SHARED_TAG.to_owned());
    })
}

fn shell(script: &str) -> Value {
    spec(&format!("{SHARED_FOLDER}/rootfs"), &["sh", "-c", script])
}

async fn file(agent: &Agent, container: &str, name: &str) -> String {
    let request = StatsRequest {
        container_id: container.to_owned(),
        ..StatsRequest::default()
    };
    let stats = agent.0.stats(Context::default(), &request).await.unwrap();
    let file = stats.files.iter().find(|file| file.name == name);
    file.unwrap_or_else(|| panic!("no {name}"))
        .content
        .trim()
        .to_owned()
}

async fn update(agent: &Agent, container: &str, resources: Value) -> Result<(), ttrpc::Error> {
    let request = UpdateResourcesRequest {
        container_id: container.to_owned(),
        resources: serde_json::to_vec(&resources).unwrap(),
        ..UpdateResourcesRequest::default()
    };
    agent
        .0
        .update_resources(Context::default(), &request)
        .await
        .map(drop)
}

async fn processes(agent: &Agent, container: &str) -> Vec<ProcessInfo> {
    let request = ListProcessesRequest {
        container_id: container.to_owned(),
        ..ListProcessesRequest::default()
    };
    let list = agent
        .0
        .list_processes(Context::default(), &request)
        .await
        .unwrap();
    list.processes
}

fn refusal(result: Result<(), ttrpc::Error>) -> (Code, String) {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_container_is_frozen_limited_and_counted() {
    let host = Host::new();
    let mut vm = start(&host);
    let agent = vm.agent();
    let script = "sleep 1000 & echo ready; while :; do echo tick; sleep 0.1; done";
    let stdout = vm.run(&agent, "c", &shell(script), shared_folder()).await;
    let mut lines = BufReader::new(stdout).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");

    let container_id = || "c".to_owned();
    let pause = PauseRequest {
        container_id: container_id(),
        ..PauseRequest::default()
    };
    agent.0.pause(Context::default(), &pause).await.unwrap();
    assert!(file(&agent, "c", "cgroup.events").await.contains("frozen 1"));
    let used = file(&agent, "c", "cpu.stat").await;
    tokio::time::sleep(PATIENCE).await;
    let usage = |stat: &str| stat.lines().next().unwrap().to_owned();
    assert_eq!(
        usage(&file(&agent, "c", "cpu.stat").await),
        usage(&used),
        "it runs"
    );
    let resume = ResumeRequest {
        container_id: container_id(),
        ..ResumeRequest::default()
    };
    agent.0.resume(Context::default(), &resume).await.unwrap();
    assert!(file(&agent, "c", "cgroup.events").await.contains("frozen 0"));
    assert_eq!(lines.next().unwrap().unwrap(), "tick");

    let limits = json!({
        "memory": {"limit": 50_331_648, "reservation": 1 << 20},
        "cpu": {"shares": 2048, "quota": 50_000, "period": 100_000},
        "pids": {"limit": 20},
    });
    update(&agent, "c", limits).await.unwrap();
    assert_eq!(file(&agent, "c", "memory.max").await, "50331648");
    assert_eq!(file(&agent, "c", "memory.low").await, "1048576");
    assert_eq!(file(&agent, "c", "cpu.max").await, "50000 100000");
    assert_eq!(file(&agent, "c", "pids.max").await, "20");
    // The second one is refused by the kernel, and the first is taken back.
    let limits = json!({
        "memory": {"limit": 40 << 20},
        "cpu": {"quota": 5},
        "pids": {"limit": 30},
    });
    let (code, message) = refusal(update(&agent, "c", limits).await);
    assert_eq!(code, Code::ABORTED);
    assert!(message.contains("linux.resources.cpu.quota"), "{message}");
    assert_eq!(file(&agent, "c", "memory.max").await, "50331648");
    assert_eq!(file(&agent, "c", "pids.max").await, "20");

    let list = processes(&agent, "c").await;
    let sleeper = list
        .iter()
        .find(|process| process.command == "sleep 1000")
        .unwrap();
    let shell = list.iter().find(|process| process.pid == sleeper.parent).unwrap();
    assert!(
        shell.command.starts_with("sh -c sleep 1000 &"),
        "{}",
        shell.command
    );
    assert!(shell.started_at_nanos <= sleeper.started_at_nanos && shell.started_at_nanos > 0);
    assert!(shell.cpu_nanos > 0 && shell.terminal.is_empty());

    assert_eq!(vm.ask(&Request::Stop {}), Response::Done);
}

#[tokio::test]
async fn want_of_memory_and_the_end_are_told() {
    let host = Host::new();
    let mut vm = start(&host);
    let agent = vm.agent();
    let mut hog = shell("tail /dev/zero; echo killed; sleep 0.2; exit 3");
    hog["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    let _stdout = vm.run(&agent, "c", &hog, shared_folder()).await;
    let wait = |known| WaitOomRequest {
        container_id: "c".to_owned(),
        known,
        ..WaitOomRequest::default()
    };
    let first = agent.0.wait_oom(Context::default(), &wait(0)).await.unwrap();
    assert_eq!(first.count, 1);
    let second = agent.0.wait_oom(Context::default(), &wait(1)).await.unwrap();
    assert_eq!(second.count, 1, "the container has ended");
    assert_eq!(agent.wait("c").await.exit_code, 3);
    assert_eq!(vm.ask(&Request::Stop {}), Response::Done);
}

#[tokio::test]
async fn namespaces_of_another_container_are_shared() {
    let host = Host::new();
    let mut vm = start(&host);
    let agent = vm.agent();
    let show = "hostname; for n in pid ipc uts cgroup mnt; do readlink /proc/self/ns/$n; done";
    let mut infra = shell(&format!("{show}; exec sleep 1000"));
    infra["hostname"] = json!("pod");
    let stdout = vm.run(&agent, "infra", &infra, shared_folder()).await;
    let infra: Vec<String> = BufReader::new(stdout)
        .lines()
        .take(6)
        .map(Result::unwrap)
        .collect();

    let mut member = shell(&format!("{show}; ps"));
    member.as_object_mut().unwrap().remove("hostname");
    let kinds = ["pid", "ipc", "uts", "cgroup"];
    member["linux"]["namespaces"] = kinds
        .iter()
        .map(|kind| json!({"type": kind, "path": "container:infra"}))
        .chain([json!({"type": "mount"}), json!({"type": "network"})])
        .collect();
    let mut text = String::new();
    let mut stdout = vm.run(&agent, "member", &member, shared_folder()).await;
    stdout.read_to_string(&mut text).unwrap();
    let member: Vec<&str> = text.lines().collect();
    assert_eq!(member[0], "pod");
    assert_eq!(
        member[..5],
        infra[..5],
        "pid, ipc, uts and cgroup are the other's"
    );
    assert_ne!(member[5], infra[5], "its mounts are its own");
    assert!(
        text.contains("sleep 1000"),
        "it sees the other's processes: {text}"
    );
    assert_eq!(agent.wait("member").await.exit_code, 0);

    let mut orphan = shell("true");
    orphan["linux"]["namespaces"][0]["path"] = json!("container:nobody");
    let create = bulkhead_agent_protocol::messages::CreateContainerRequest {
        container_id: "orphan".to_owned(),
        spec: serde_json::to_vec(&orphan).unwrap(),
        ..Default::default()
    };
    let refused = timeout(
        PATIENCE * 100,
        agent.0.create_container(Context::default(), &create),
    )
    .await;
    let (code, message) = refusal(refused.unwrap().map(drop));
    assert_eq!(code, Code::INVALID_ARGUMENT);
    assert_eq!(
        message,
        "linux.namespaces[0].path: container \"nobody\" does not exist"
    );
    assert_eq!(vm.ask(&Request::Stop {}), Response::Done);
}
