//! Further processes in a container, asked for as the runtime will ask.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bulkhead_agent_protocol::SHARED_FOLDER;
use bulkhead_agent_protocol::messages::{
    DeleteRequest, ExecRequest, SignalRequest, Stdio, WaitRequest, WaitResponse,
};
use bulkhead_tests::harness::Host;
use bulkhead_vmm::control::{Request, Response};
use bulkhead_vmm::report::Outcome;
use serde_json::json;
use ttrpc::{Code, context::Context};

use super::microvm::{Agent, MicroVm};
use super::{shared_folder, spec};

const CONTAINER: &str = "c";

/// The streams of a process: standard input, output, error.
struct Streams([UnixStream; 3]);

impl Streams {
    /// What it prints until it ends, on standard output and error.
    fn output(self) -> (String, String) {
        let Self([stdin, stdout, stderr]) = self;
        drop(stdin);
        let text = |mut stream: UnixStream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        (text(stdout), text(stderr))
    }
}

/// Runs a script in the container.
async fn exec(vm: &MicroVm, agent: &Agent, id: &str, args: &[&str]) -> ttrpc::Result<Streams> {
    let name = |stream: &str| format!("{id}.{stream}");
    let streams = ["stdin", "stdout", "stderr"].map(|stream| vm.stream(&name(stream)));
    let process = json!({
        "args": args,
        "cwd": "/tmp",
        "env": ["PATH=/bin"],
        "user": {"uid": 1000, "gid": 1000},
    });
    let request = ExecRequest {
        container_id: CONTAINER.to_owned(),
        exec_id: id.to_owned(),
        process: serde_json::to_vec(&process).unwrap(),
        stdio: Some(Stdio {
            stdin: name("stdin"),
            stdout: name("stdout"),
            stderr: name("stderr"),
            ..Stdio::default()
        })
        .into(),
        ..ExecRequest::default()
    };
    let response = agent.0.exec(Context::default(), &request).await?;
    assert!(response.pid > 1);
    Ok(Streams(streams))
}

async fn wait(agent: &Agent, exec_id: &str) -> ttrpc::Result<WaitResponse> {
    let request = WaitRequest {
        container_id: CONTAINER.to_owned(),
        exec_id: exec_id.to_owned(),
        ..WaitRequest::default()
    };
    agent.0.wait(Context::default(), &request).await
}

async fn signal(agent: &Agent, exec_id: &str, signal: u32) {
    let request = SignalRequest {
        container_id: CONTAINER.to_owned(),
        exec_id: exec_id.to_owned(),
        signal,
        ..SignalRequest::default()
    };
    agent.0.signal(Context::default(), &request).await.unwrap();
}

async fn delete(agent: &Agent, exec_id: &str) {
    let request = DeleteRequest {
        container_id: CONTAINER.to_owned(),
        exec_id: exec_id.to_owned(),
        ..DeleteRequest::default()
    };
    agent.0.delete(Context::default(), &request).await.unwrap();
}

#[track_caller]
fn assert_refused<T>(result: ttrpc::Result<T>, code: Code, words: &str) {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => {
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message.contains(words), "{status:?}");
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn further_processes_run_in_a_container_and_are_forgotten() {
    let host = Host::new();
    let bundle = host.bundle(|_| {});
    let mut vm = MicroVm::start(&host, bundle.folder(), |launch| {
        launch.filesystem = Some(bulkhead_agent_protocol::SHARED_TAG.to_owned());
    });
    let agent = vm.agent();
    let container = spec(&format!("{SHARED_FOLDER}/rootfs"), &["sleep", "1000"]);
    let _stdout = vm.run(&agent, CONTAINER, &container, shared_folder()).await;

    let script = "read line; echo $line for $(id -u) in $(pwd); echo bad news >&2; exit 5";
    let mut talk = exec(&vm, &agent, "talk", &["sh", "-c", script]).await.unwrap();
    talk.0[0].write_all(b"news\n").unwrap();
    let end = wait(&agent, "talk").await.unwrap();
    assert_eq!((end.exit_code, end.signal), (5, 0));
    assert_eq!(
        talk.output(),
        ("news for 1000 in /tmp\n".to_owned(), "bad news\n".to_owned())
    );

    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 1; done";
    let mut caught = exec(&vm, &agent, "caught", &["sh", "-c", script]).await.unwrap();
    caught.0[1].read_exact(&mut [0; 6]).unwrap();
    assert_refused(
        exec(&vm, &agent, "caught", &["true"]).await.map(drop),
        Code::ALREADY_EXISTS,
        "caught",
    );
    signal(&agent, "caught", 15).await;
    assert_eq!(wait(&agent, "caught").await.unwrap().exit_code, 7);

    assert_refused(
        exec(&vm, &agent, "none", &["no-such-program"]).await.map(drop),
        Code::ABORTED,
        "executable file not found in $PATH",
    );

    delete(&agent, "talk").await;
    assert_refused(wait(&agent, "talk").await, Code::NOT_FOUND, "talk");
    signal(&agent, "", 9).await;
    assert_eq!(wait(&agent, "").await.unwrap().signal, 9);
    delete(&agent, "").await;
    assert_refused(wait(&agent, "").await, Code::NOT_FOUND, CONTAINER);
    assert_refused(wait(&agent, "caught").await, Code::NOT_FOUND, CONTAINER);

    assert_eq!(vm.ask(&Request::Stop {}), Response::Done);
    assert_eq!(vm.end().0.outcome, Outcome::Stopped);
}
