//! The shim, as containerd drives it.

mod containerd;
mod given_up;
mod many;

use std::{fs, os::unix::process::ExitStatusExt, process::Command};

use bulkhead_tests::harness::{Bundle, LIMIT, processes};
use containerd::{Containerd, Pipe, Shim, code, refusal};
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, DeleteResponse, ExecProcessRequest,
        PauseRequest, PidsRequest, ResizePtyRequest, ResumeRequest, ShutdownRequest, StateRequest,
        StateResponse, StatsRequest, Status, UpdateTaskRequest,
    },
    bootstrap_api::BootstrapParams,
    cgroups_v2::metrics::Metrics,
    sandbox_api::{
        CreateSandboxRequest, PingRequest, PlatformRequest, SandboxStatusRequest, ShutdownSandboxRequest,
        StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
    },
    types::mount::Mount,
};
use nix::sys::signal::{Signal, kill};
use protobuf::{Message, MessageField, well_known_types::any::Any};
use serde_json::{Value, json};
use ttrpc::{Code, context::Context};

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

fn json_of(value: &Value) -> MessageField<Any> {
    MessageField::some(Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/x".to_owned(),
        value: value.to_string().into_bytes(),
        ..Any::default()
    })
}

/// A further process that runs the shell script.
fn script(id: &str, exec_id: &str, script: &str) -> ExecProcessRequest {
    ExecProcessRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        spec: json_of(&json!({"cwd": "/", "args": ["sh", "-c", script], "env": ["PATH=/bin"]})),
        ..ExecProcessRequest::default()
    }
}

fn state(id: &str, exec_id: &str) -> StateRequest {
    StateRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..StateRequest::default()
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_container_lives_and_every_step_of_it_is_told_in_order() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd
        .host
        .script("trap 'echo bye; exit 7' TERM; echo hello; echo oops >&2; while :; do sleep 0.1; done");
    let shim = containerd.start(&bundle, id).await;
    let (stdout, stderr) = (
        Pipe::new(containerd.host.folder(), "stdout"),
        Pipe::new(containerd.host.folder(), "stderr"),
    );
    let mut creation = containerd.creation(&bundle, id);
    creation.stdout = stdout.path.display().to_string();
    creation.stderr = stderr.path.display().to_string();
    let pid = shim
        .tasks
        .create(Context::default(), &creation)
        .await
        .expect("created")
        .pid;
    assert_eq!(shim.status(id, "").await, Status::CREATED);
    assert_eq!(
        code(shim.tasks.create(Context::default(), &creation).await),
        Code::ALREADY_EXISTS
    );
    assert_eq!(shim.start(id, "").await.expect("started"), pid);
    assert_eq!(shim.status(id, "").await, Status::RUNNING);
    assert_eq!(code(shim.start(id, "").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(shim.delete(id, "").await), Code::FAILED_PRECONDITION);

    // The command line knows it by the same pid, and so does the service's older name.
    let state_of = containerd
        .host
        .bulkhead_with(&containerd.host.file("c", ""), &containerd.root());
    let known = state_of.args(["state", id]).output().success();
    let known: Value = serde_json::from_str(&known).expect("JSON");
    assert_eq!(
        (&known["pid"], &known["status"]),
        (&json!(pid), &json!("running"))
    );
    let older: StateResponse = shim.older("State", &state(id, "")).await.expect("known");
    assert_eq!(
        (older.pid, older.stdout.as_str()),
        (pid, creation.stdout.as_str())
    );
    let connection = ConnectRequest {
        id: id.clone(),
        ..ConnectRequest::default()
    };
    let connection = shim
        .tasks
        .connect(Context::default(), &connection)
        .await
        .expect("known");
    assert_eq!(connection.shim_pid, shim.pid().as_raw().unsigned_abs());
    assert_eq!(connection.task_pid, pid);
    // It is in the sandbox's cgroup, beside the monitor.
    let cgroup = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("alive");
    assert_eq!(cgroup(connection.shim_pid), cgroup(pid));
    // It can make mounts and open what is others', and no more of what root can.
    const SYS_ADMIN: u64 = 1 << 21;
    const DAC_OVERRIDE: u64 = 1 << 1;
    for set in ["CapPrm", "CapEff"] {
        let capabilities = processes::status_field(shim.pid(), set);
        let capabilities = u64::from_str_radix(capabilities.trim(), 16).expect("a set");
        assert_eq!(capabilities, SYS_ADMIN | DAC_OVERRIDE, "{set}");
    }

    // A further process.
    let exec = script(id, "e1", "exit 3");
    shim.tasks.exec(Context::default(), &exec).await.expect("added");
    assert_eq!(
        code(shim.tasks.exec(Context::default(), &exec).await),
        Code::ALREADY_EXISTS
    );
    assert_eq!(shim.status(id, "e1").await, Status::CREATED);
    assert_eq!(
        code(shim.kill(id, "e1", SIGTERM).await),
        Code::FAILED_PRECONDITION
    );
    shim.start(id, "e1").await.expect("started");
    assert_eq!(shim.wait(id, "e1").await, 3);
    assert_eq!(code(shim.kill(id, "e1", SIGTERM).await), Code::NOT_FOUND);
    assert_eq!(shim.delete(id, "e1").await.expect("deleted"), 3);
    assert_eq!(code(shim.delete(id, "e1").await), Code::NOT_FOUND);
    // One that is killed, under a name that has been used.
    shim.tasks
        .exec(Context::default(), &script(id, "e1", "sleep 1000"))
        .await
        .expect("added");
    shim.start(id, "e1").await.expect("started");
    assert_eq!(code(shim.delete(id, "e1").await), Code::FAILED_PRECONDITION);
    shim.kill(id, "e1", SIGKILL).await.expect("sent");
    assert_eq!(shim.wait(id, "e1").await, 128 + SIGKILL);
    // One that cannot be executed.
    let mut exec = script(id, "e2", "");
    exec.spec = json_of(&json!({"cwd": "/", "args": ["/no/such/program"], "env": ["PATH=/bin"]}));
    shim.tasks.exec(Context::default(), &exec).await.expect("added");
    let refused = refusal(shim.start(id, "e2").await);
    assert!(
        refused.contains("/no/such/program") && refused.contains("no such file"),
        "{refused}"
    );
    shim.delete(id, "e2").await.expect("deleted");

    let pause = PauseRequest {
        id: id.clone(),
        ..PauseRequest::default()
    };
    let resume = ResumeRequest {
        id: id.clone(),
        ..ResumeRequest::default()
    };
    assert_eq!(
        code(shim.tasks.resume(Context::default(), &resume).await),
        Code::FAILED_PRECONDITION
    );
    shim.tasks
        .pause(Context::default(), &pause)
        .await
        .expect("paused");
    assert_eq!(shim.status(id, "").await, Status::PAUSED);
    assert_eq!(
        code(shim.tasks.pause(Context::default(), &pause).await),
        Code::FAILED_PRECONDITION
    );
    shim.tasks
        .resume(Context::default(), &resume)
        .await
        .expect("resumed");
    assert_eq!(shim.status(id, "").await, Status::RUNNING);

    let pids = PidsRequest {
        id: id.clone(),
        ..PidsRequest::default()
    };
    let pids = shim
        .tasks
        .pids(Context::default(), &pids)
        .await
        .expect("running")
        .processes;
    assert!(
        !pids.is_empty() && pids.iter().all(|process| process.pid > 1),
        "{pids:?}"
    );
    let update = UpdateTaskRequest {
        id: id.clone(),
        resources: json_of(&json!({"pids": {"limit": 77}, "devices": [{"allow": false}]})),
        ..UpdateTaskRequest::default()
    };
    shim.tasks
        .update(Context::default(), &update)
        .await
        .expect("updated");
    let stats = StatsRequest {
        id: id.clone(),
        ..StatsRequest::default()
    };
    let stats = shim
        .tasks
        .stats(Context::default(), &stats)
        .await
        .expect("running")
        .stats;
    assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
    let metrics = Metrics::parse_from_bytes(&stats.value).expect("valid");
    assert_eq!(metrics.pids.limit, 77);
    assert!(
        metrics.memory.usage > 0 && metrics.cpu.usage_usec > 0,
        "{metrics}"
    );

    shim.kill(id, "", SIGTERM).await.expect("sent");
    assert_eq!(shim.wait(id, "").await, 7);
    assert_eq!(shim.status(id, "").await, Status::STOPPED);
    assert_eq!(code(shim.kill(id, "", SIGTERM).await), Code::NOT_FOUND);
    assert_eq!(stdout.output().await, "hello\nbye\n");
    assert_eq!(stderr.output().await, "oops\n");
    assert_eq!(shim.delete(id, "").await.expect("deleted"), 7);
    assert_eq!(
        code(shim.tasks.state(Context::default(), &state(id, "")).await),
        Code::NOT_FOUND
    );
    assert_eq!(
        containerd.events_until("delete").await,
        [
            "create",
            "start",
            "exec-added e1",
            "exec-started e1",
            "exit e1",
            "exec-added e1",
            "exec-started e1",
            "exit e1",
            "exec-added e2",
            "paused",
            "resumed",
            "exit",
            "delete",
        ]
    );
    shim.shut_down().await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_cannot_be_done_is_refused_by_code_and_in_words() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd.host.script("sleep 1000");
    let shim = containerd.start(&bundle, id).await;
    let context = Context::default;
    assert_eq!(
        code(shim.tasks.state(context(), &state(id, "")).await),
        Code::NOT_FOUND
    );
    assert_eq!(code(shim.start(id, "").await), Code::NOT_FOUND);
    assert_eq!(
        code(shim.older::<StateResponse>("State", &state(id, "")).await),
        Code::NOT_FOUND
    );
    assert_eq!(
        code(shim.older::<StateResponse>("Frobnicate", &state(id, "")).await),
        Code::UNIMPLEMENTED
    );

    let creation = containerd.creation(&bundle, id);
    let mut wrong = creation.clone();
    wrong.stdout = "gopher:///x".to_owned();
    assert_eq!(
        code(shim.tasks.create(context(), &wrong).await),
        Code::INVALID_ARGUMENT
    );
    let mut wrong = creation.clone();
    wrong.checkpoint = "/x".to_owned();
    assert_eq!(
        code(shim.tasks.create(context(), &wrong).await),
        Code::UNIMPLEMENTED
    );
    let config = fs::read(bundle.config()).expect("readable");
    let mut broken: Value = serde_json::from_slice(&config).expect("JSON");
    broken["process"]["args"] = json!(["/no/such/program"]);
    bundle.write_config(broken.to_string().as_bytes());
    let refused = refusal(shim.tasks.create(context(), &creation).await);
    assert!(
        refused.contains("/no/such/program") && refused.contains("no such file"),
        "{refused}"
    );
    broken["process"]["cwd"] = json!("relative");
    bundle.write_config(broken.to_string().as_bytes());
    let refused = refusal(shim.tasks.create(context(), &creation).await);
    assert!(refused.contains("process.cwd"), "{refused}");
    bundle.write_config(&config);

    shim.tasks.create(context(), &creation).await.expect("created");
    for signal in [0, 65] {
        assert_eq!(code(shim.kill(id, "", signal).await), Code::INVALID_ARGUMENT);
    }
    assert_eq!(code(shim.kill(id, "e1", SIGKILL).await), Code::NOT_FOUND);
    let resize = ResizePtyRequest {
        id: id.clone(),
        width: 80,
        height: 24,
        ..ResizePtyRequest::default()
    };
    assert_eq!(
        code(shim.tasks.resize_pty(context(), &resize).await),
        Code::FAILED_PRECONDITION
    );
    let checkpoint = CheckpointTaskRequest {
        id: id.clone(),
        ..CheckpointTaskRequest::default()
    };
    assert_eq!(
        code(shim.tasks.checkpoint(context(), &checkpoint).await),
        Code::UNIMPLEMENTED
    );
    let update = UpdateTaskRequest {
        id: id.clone(),
        resources: json_of(&json!([])),
        ..UpdateTaskRequest::default()
    };
    assert_eq!(
        code(shim.tasks.update(context(), &update).await),
        Code::INVALID_ARGUMENT
    );
    let mut exec = script(id, "../x", "");
    assert_eq!(
        code(shim.tasks.exec(context(), &exec).await),
        Code::INVALID_ARGUMENT
    );
    exec = script(id, "e1", "");
    exec.spec = json_of(&json!("x"));
    assert_eq!(
        code(shim.tasks.exec(context(), &exec).await),
        Code::INVALID_ARGUMENT
    );
    // One that was never started is ended by its deletion, and that is told.
    assert_eq!(shim.delete(id, "").await.expect("deleted"), 128 + SIGKILL);
    let events = containerd.events_until("delete").await;
    assert_eq!(events[events.len() - 3..], ["create", "exit", "delete"]);
    shim.shut_down().await;
}

#[tokio::test(flavor = "current_thread")]
async fn input_reaches_its_end_when_it_is_closed_and_a_terminal_has_the_size_that_it_is_told() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let folder = containerd.host.folder();
    let bundle = containerd.host.script("cat; echo done");
    let shim = containerd.start(&bundle, id).await;
    let stdout = Pipe::new(folder, "stdout");
    let stdin = folder.join("stdin");
    nix::unistd::mkfifo(&stdin, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut creation = containerd.creation(&bundle, id);
    creation.stdin = stdin.display().to_string();
    creation.stdout = stdout.path.display().to_string();
    shim.run(&creation).await;
    // Who writes comes and goes; the input goes on until it is closed.
    fs::write(&stdin, "one\n").expect("somebody reads");
    fs::write(&stdin, "two\n").expect("somebody reads");
    let close = CloseIORequest {
        id: id.clone(),
        stdin: true,
        ..CloseIORequest::default()
    };

    let terminal = Pipe::new(folder, "terminal");
    let mut exec = script(
        id,
        "t",
        "test -t 0 && while [ \"$(stty size 2>&1)\" != '33 99' ]; do sleep 0.1; done; stty size",
    );
    exec.terminal = true;
    exec.stdout = terminal.path.display().to_string();
    shim.tasks.exec(Context::default(), &exec).await.expect("added");
    shim.start(id, "t").await.expect("started");
    let resize = ResizePtyRequest {
        id: id.clone(),
        exec_id: "t".to_owned(),
        width: 99,
        height: 33,
        ..ResizePtyRequest::default()
    };
    shim.tasks
        .resize_pty(Context::default(), &resize)
        .await
        .expect("resized");
    assert_eq!(shim.wait(id, "t").await, 0);
    assert_eq!(terminal.output().await, "33 99\r\n");

    shim.tasks
        .close_io(Context::default(), &close)
        .await
        .expect("closed");
    assert_eq!(shim.wait(id, "").await, 0);
    assert_eq!(stdout.output().await, "one\ntwo\ndone\n");
    shim.delete(id, "").await.expect("deleted");
    shim.shut_down().await;
}

#[tokio::test(flavor = "current_thread")]
async fn output_goes_to_files_and_to_the_programs_that_are_named_for_it() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let folder = containerd.host.folder();
    let bundle = containerd.host.script("echo hello; echo oops >&2");
    let shim = containerd.start(&bundle, id).await;
    let logger = containerd.host.file(
        "logger",
        "#!/bin/sh\nexec 5>&-\n{ echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\"; cat <&3; cat <&4; } > \"$2\"\n",
    );
    Command::new("chmod")
        .arg("755")
        .arg(&logger)
        .status()
        .expect("chmod");
    let logged = folder.join("logged");
    let mut creation = containerd.creation(&bundle, id);
    creation.stdout = format!("binary://{}?--to={}", logger.display(), logged.display());
    creation.stderr = creation.stdout.clone();
    shim.tasks
        .create(Context::default(), &creation)
        .await
        .expect("created");
    let file = folder.join("new/file");
    let mut exec = script(id, "e1", "echo in a file; echo and another >&2");
    exec.stdout = format!("file://{}", file.display());
    exec.stderr = exec.stdout.clone();
    shim.tasks.exec(Context::default(), &exec).await.expect("added");
    shim.start(id, "").await.expect("started");
    assert_eq!(shim.wait(id, "").await, 0);
    shim.delete(id, "").await.expect("deleted");
    let logged_text = fs::read_to_string(&logged).expect("written");
    assert!(logged_text.starts_with(&format!("{id} ")), "{logged_text}");
    assert!(
        logged_text.ends_with(&format!(" --to {}\nhello\noops\n", logged.display())),
        "{logged_text}"
    );

    // A logger that is not there.
    creation.stdout = "binary:///no/such/logger".to_owned();
    let refused = refusal(shim.tasks.create(Context::default(), &creation).await);
    assert!(refused.contains("/no/such/logger"), "{refused}");
    creation.stdout = format!("file://{}", file.display());
    creation.stderr = creation.stdout.clone();
    shim.run(&creation).await;
    shim.wait(id, "").await;
    assert_eq!(fs::read_to_string(&file).expect("written").lines().count(), 2);
    shim.delete(id, "").await.expect("deleted");
    shim.shut_down().await;
}

#[tokio::test(flavor = "current_thread")]
async fn events_wait_for_a_containerd_that_is_away() {
    let mut containerd = Containerd::deaf();
    let id = &containerd.host.new_id();
    let bundle = containerd.host.script("exit 5");
    let shim = containerd.start(&bundle, id).await;
    let creation = containerd.creation(&bundle, id);
    shim.run(&creation).await;
    assert_eq!(shim.wait(id, "").await, 5);
    assert!(containerd.events().is_empty());
    containerd.listen().await;
    assert_eq!(containerd.events_until("exit").await, ["create", "start", "exit"]);
    shim.delete(id, "").await.expect("deleted");
    shim.shut_down().await;
    assert_eq!(
        containerd.events_until("delete").await,
        ["create", "start", "exit", "delete"]
    );
}

#[tokio::test(flavor = "current_thread")]
async fn want_of_memory_is_told_before_the_end() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd.host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "exec tail /dev/zero"]);
        config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20}});
    });
    let shim = containerd.start(&bundle, id).await;
    let creation = containerd.creation(&bundle, id);
    shim.run(&creation).await;
    assert_eq!(shim.wait(id, "").await, 128 + SIGKILL);
    assert_eq!(
        containerd.events_until("exit").await,
        ["create", "start", "oom", "exit"]
    );
    shim.delete(id, "").await.expect("deleted");
    shim.shut_down().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_microvm_that_dies_ends_its_container_at_once() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd.host.script("sleep 1000");
    let shim = containerd.start(&bundle, id).await;
    let creation = containerd.creation(&bundle, id);
    let pid = shim.run(&creation).await;
    shim.tasks
        .exec(Context::default(), &script(id, "e1", "sleep 1000"))
        .await
        .expect("added");
    shim.start(id, "e1").await.expect("started");
    let monitor = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(
        processes::descendant_named(monitor, "bulkhead-vmm"),
        Signal::SIGKILL,
    )
    .expect("alive");
    assert_eq!(shim.wait(id, "").await, 128 + SIGKILL);
    assert_eq!(shim.wait(id, "e1").await, 128 + SIGKILL);
    // What ran in the container is told to have ended before the container is.
    let events = containerd.events_until("exit").await;
    assert_eq!(events[events.len() - 2..], ["exit e1", "exit"]);
    shim.delete(id, "").await.expect("deleted");
    shim.shut_down().await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_shim_leaves_that_was_killed_is_removed() {
    let containerd = Containerd::new().await;
    let id = &containerd.host.new_id();
    let bundle = containerd.host.script("sleep 1000");
    let shim = containerd.start(&bundle, id).await;
    let creation = containerd.creation(&bundle, id);
    let pid = shim.run(&creation).await;
    let process = shim.pid();
    kill(process, Signal::SIGKILL).expect("alive");
    assert!(processes::wait_until_gone(process, LIMIT));
    let output = containerd.execute(&bundle, id, "delete");
    assert!(output.status.success(), "{output:?}");
    let response = DeleteResponse::parse_from_bytes(&output.stdout).expect("valid");
    assert_eq!((response.pid, response.exit_status), (pid, 128 + SIGKILL));
    assert!(response.exited_at.seconds > 0);
    assert!(!shim.socket.exists(), "the socket stays");
    // Once more is no error.
    assert!(containerd.execute(&bundle, id, "delete").status.success());
}

#[tokio::test(flavor = "current_thread")]
async fn a_shim_is_found_by_the_containers_of_its_group_and_answers_as_containerd_can_read() {
    let containerd = Containerd::new().await;
    let sandbox = containerd.host.new_id();
    let annotated = |kind: &str| {
        containerd.host.bundle(|config| {
            config["annotations"] = json!({
                "io.kubernetes.cri.container-type": kind,
                "io.kubernetes.cri.sandbox-id": sandbox,
            });
        })
    };
    let (pod, member) = (annotated("sandbox"), annotated("container"));
    let id = &containerd.host.new_id();
    let output = containerd.execute(&member, id, "start");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&sandbox) && said.contains("cannot join"), "{said}");

    let output = containerd.execute(&pod, &sandbox, "start");
    let address = String::from_utf8(output.stdout).expect("text");
    let shim = Shim::connect(&address).await;
    assert_eq!(
        containerd.execute(&member, id, "start").stdout,
        address.as_bytes()
    );
    assert_eq!(
        fs::read_to_string(member.folder().join("address")).expect("written"),
        address
    );
    for (version, answered) in [("2", 2), ("3", 3), ("9", 3)] {
        let mut command = containerd.command(&member, id, "start");
        let output = command
            .env("MAX_SHIM_VERSION", version)
            .output()
            .expect("the shim");
        let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(
            document,
            json!({"version": answered, "address": address, "protocol": "ttrpc"})
        );
    }
    shim.shut_down().await;

    // containerd 2.3 says more, and on standard input.
    let id = &containerd.host.new_id();
    let params = BootstrapParams {
        instance_id: id.clone(),
        namespace: containerd.namespace.clone(),
        socket_dir: Some(containerd.host.folder().display().to_string()),
        ..BootstrapParams::default()
    };
    let alone = containerd.host.bundle(|_| {});
    let mut command = containerd.command(&alone, id, "start");
    let output = command
        .stdin(containerd.input(&params))
        .output()
        .expect("the shim");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["version"], 3);
    let shim = Shim::connect(document["address"].as_str().expect("text")).await;
    assert_eq!(shim.socket.parent(), Some(containerd.host.folder()));
    shim.shut_down().await;

    let output = containerd.execute(&member, id, "frobnicate");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.status.signal().is_none());
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown action"));
}

/// The bundle of a container of a pod that runs the shell script.
fn member(containerd: &Containerd, pod: &str, script: &str) -> Bundle {
    containerd.host.bundle(|config| {
        config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": pod,
        });
        config["process"]["args"] = json!(["sh", "-c", script]);
    })
}

#[tokio::test(flavor = "current_thread")]
async fn the_containers_of_a_pod_share_a_shim_and_a_microvm_and_end_with_it() {
    let containerd = Containerd::new().await;
    let pod = containerd.host.new_id();
    let bundle = containerd.host.bundle(|config| {
        config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": pod,
        });
        config["process"]["args"] = json!(["/pause"]);
    });
    let shim = containerd.start(&bundle, &pod).await;
    let mut creation = containerd.creation(&bundle, &pod);
    // Nothing of it is run, so nothing of it is mounted.
    creation.rootfs.push(Mount {
        type_: "overlay".to_owned(),
        source: "/no/such/layer".to_owned(),
        ..Mount::default()
    });
    let pid = shim.run(&creation).await;
    assert_eq!(shim.status(&pod, "").await, Status::RUNNING);

    // One that ends by itself, another one in its place, and one that stays.
    for code in [3, 0] {
        let id = containerd.host.new_id();
        let bundle = member(&containerd, &pod, &format!("exit {code}"));
        let answer = containerd.execute(&bundle, &id, "start").stdout;
        assert_eq!(
            String::from_utf8_lossy(&answer),
            format!("unix://{}", shim.socket.display())
        );
        let creation = containerd.creation(&bundle, &id);
        shim.run(&creation).await;
        assert_eq!(shim.wait(&id, "").await, code);
        assert_eq!(shim.delete(&id, "").await.expect("deleted"), code);
    }
    let id = &containerd.host.new_id();
    let bundle = member(&containerd, &pod, "sleep 1000");
    let creation = containerd.creation(&bundle, id);
    shim.run(&creation).await;
    let monitor = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    assert_eq!(processes::descendants(monitor).len(), 1, "one VMM");
    assert_eq!(code(shim.delete(&pod, "").await), Code::FAILED_PRECONDITION);
    // A shim with containers does not end.
    let shutdown = ShutdownRequest::default();
    shim.tasks
        .shutdown(Context::default(), &shutdown)
        .await
        .expect("an answer");
    assert_eq!(shim.status(id, "").await, Status::RUNNING);

    shim.kill(&pod, "", SIGKILL).await.expect("sent");
    assert_eq!(shim.wait(&pod, "").await, 128 + SIGKILL);
    assert_eq!(shim.wait(id, "").await, 128 + SIGKILL);
    assert_eq!(shim.delete(id, "").await.expect("deleted"), 128 + SIGKILL);
    shim.delete(&pod, "").await.expect("deleted");
    shim.shut_down().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_pod_can_be_the_shims_own_as_containerd_2_has_it() {
    let containerd = Containerd::new().await;
    let pod = &containerd.host.new_id();
    let bundle = containerd.host.bundle(|_| {});
    // containerd puts nothing into the bundle.
    fs::remove_file(bundle.config()).expect("there");
    let shim = containerd.start(&bundle, pod).await;
    let context = Context::default;
    let creation = CreateSandboxRequest {
        sandbox_id: pod.clone(),
        bundle_path: bundle.folder().display().to_string(),
        ..CreateSandboxRequest::default()
    };
    let start = StartSandboxRequest {
        sandbox_id: pod.clone(),
        ..StartSandboxRequest::default()
    };
    assert_eq!(
        code(shim.sandbox.start_sandbox(context(), &start).await),
        Code::NOT_FOUND
    );
    // CRI's description of it has the host's network.
    let of_the_host = CreateSandboxRequest {
        options: MessageField::some(Any {
            type_url: "runtime.v1.PodSandboxConfig".to_owned(),
            value: b"\x42\x06\x12\x04\x0a\x02\x08\x02".to_vec(),
            ..Any::default()
        }),
        ..creation.clone()
    };
    let refused = shim.sandbox.create_sandbox(context(), &of_the_host).await;
    let refused = refused.expect_err("it has none").to_string();
    assert!(refused.contains("hostNetwork"), "{refused}");
    fs::remove_file(bundle.config()).expect("written by the shim");
    shim.sandbox
        .create_sandbox(context(), &creation)
        .await
        .expect("created");
    assert_eq!(
        code(shim.sandbox.create_sandbox(context(), &creation).await),
        Code::ALREADY_EXISTS
    );
    let started = shim
        .sandbox
        .start_sandbox(context(), &start)
        .await
        .expect("started");
    assert!(started.pid > 0 && started.created_at.seconds > 0);
    let status = SandboxStatusRequest {
        sandbox_id: pod.clone(),
        ..SandboxStatusRequest::default()
    };
    let state = shim
        .sandbox
        .sandbox_status(context(), &status)
        .await
        .expect("known");
    assert_eq!((state.state.as_str(), state.pid), ("SANDBOX_READY", started.pid));
    let ping = PingRequest {
        sandbox_id: pod.clone(),
        ..PingRequest::default()
    };
    shim.sandbox
        .ping_sandbox(context(), &ping)
        .await
        .expect("it is there");
    let platform = shim
        .sandbox
        .platform(context(), &PlatformRequest::default())
        .await
        .expect("known");
    assert_eq!(platform.platform.os, "linux");

    let id = &containerd.host.new_id();
    let bundle = member(&containerd, pod, "sleep 1000");
    let creation = containerd.creation(&bundle, id);
    shim.tasks.create(context(), &creation).await.expect("created");
    shim.start(id, "").await.expect("started");
    let stop = StopSandboxRequest {
        sandbox_id: pod.clone(),
        ..StopSandboxRequest::default()
    };
    shim.sandbox
        .stop_sandbox(context(), &stop)
        .await
        .expect("stopped");
    let wait = WaitSandboxRequest {
        sandbox_id: pod.clone(),
        ..WaitSandboxRequest::default()
    };
    let end = shim.sandbox.wait_sandbox(context(), &wait).await.expect("ended");
    assert_eq!(end.exit_status, 128 + SIGKILL);
    let state = shim
        .sandbox
        .sandbox_status(context(), &status)
        .await
        .expect("known");
    assert_eq!(state.state, "SANDBOX_NOTREADY");
    assert_eq!(shim.wait(id, "").await, 128 + SIGKILL);
    shim.delete(id, "").await.expect("deleted");
    // Of the sandbox containerd knows otherwise.
    assert_eq!(
        containerd.events_until("delete").await,
        ["create", "start", "exit", "delete"]
    );

    let process = shim.pid();
    let shutdown = ShutdownSandboxRequest {
        sandbox_id: pod.clone(),
        ..ShutdownSandboxRequest::default()
    };
    shim.sandbox
        .shutdown_sandbox(context(), &shutdown)
        .await
        .expect("an answer");
    assert!(processes::wait_until_gone(process, LIMIT), "the shim stays");
}
