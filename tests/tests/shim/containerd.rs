//! What containerd is to a shim: it executes it, calls it, and takes its events.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bulkhead_tests::{
    harness::{Bundle, Host, LIMIT, bulkhead_binary, processes},
    shim_options::shim_options,
};
use containerd_shim_protos::{
    api::{
        CreateTaskRequest, DeleteRequest, Empty, ForwardRequest, KillRequest, ShutdownRequest, StartRequest,
        StateRequest, Status, WaitRequest,
    },
    events::task::{TaskExecAdded, TaskExecStarted, TaskExit},
    sandbox_async::SandboxClient,
    shim::event::Envelope,
    shim_async::{Client, Events, TaskClient, create_events},
};
use nix::unistd::Pid;
use protobuf::{Message, MessageField, well_known_types::any::Any};
use tokio::{net::UnixStream, sync::Notify, time::timeout};
use ttrpc::{
    Code,
    r#async::{Server, TtrpcContext, transport::Socket},
    context::Context,
};

/// The name under which `bulkhead` is a shim.
const SHIM: &str = "containerd-shim-bulkhead-v2";

/// Takes events.
#[derive(Default)]
struct Exchange {
    events: Mutex<Vec<Envelope>>,
    more: Notify,
}

#[async_trait]
impl Events for Exchange {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        self.events.lock().unwrap().push(request.envelope.unwrap());
        self.more.notify_waiters();
        Ok(Empty::default())
    }
}

/// A containerd of the test's own, with a namespace of its own.
pub struct Containerd {
    /// The machine.
    pub host: Host,
    /// Its namespace.
    pub namespace: String,
    exchange: Arc<Exchange>,
    server: Option<Server>,
}

/// A shim that serves.
pub struct Shim {
    /// Where.
    pub socket: PathBuf,
    client: Client,
    /// The task service by its newer name.
    pub tasks: TaskClient,
    /// The sandbox service.
    pub sandbox: SandboxClient,
}

impl Containerd {
    /// One that listens for events.
    pub async fn new() -> Self {
        let mut containerd = Self::deaf();
        containerd.listen().await;
        containerd
    }

    /// One that does not listen for events yet.
    pub fn deaf() -> Self {
        let host = Host::new();
        let namespace = host.new_id();
        Self {
            host,
            namespace,
            exchange: Arc::default(),
            server: None,
        }
    }

    /// Listens for events.
    pub async fn listen(&mut self) {
        let exchange: Arc<dyn Events + Send + Sync> = self.exchange.clone();
        let socket = format!("unix://{}", self.events_socket().display());
        let mut server = Server::new()
            .bind(&socket)
            .expect("a socket")
            .register_service(create_events(exchange));
        server.start().await.expect("a server");
        self.server = Some(server);
    }

    fn events_socket(&self) -> PathBuf {
        self.host.folder().join("containerd.sock.ttrpc")
    }

    /// Where the state folders of this namespace's containers are.
    pub fn root(&self) -> PathBuf {
        Path::new("/run/containerd/bulkhead").join(&self.namespace)
    }

    /// The shim's program with the flags that containerd gives, in the bundle's folder.
    pub fn command(&self, bundle: &Bundle, id: &str, action: &str) -> Command {
        let mut command = Command::new(bulkhead_binary());
        command
            .arg0(SHIM)
            .args([
                "-namespace",
                &self.namespace,
                "-publish-binary",
                "/bin/false",
                "-id",
                id,
                "-address",
            ])
            .arg(self.host.folder().join("containerd.sock"))
            .arg("-bundle")
            .arg(bundle.folder())
            .arg(action)
            .current_dir(bundle.folder())
            .env("TTRPC_ADDRESS", self.events_socket())
            .stdin(self.input(&self.options()));
        command
    }

    /// What containerd has a program read.
    pub fn input(&self, message: &impl Message) -> File {
        let message = message.write_to_bytes().expect("encodable");
        File::open(self.host.file("input", message)).expect("written")
    }

    /// Executes it.
    pub fn execute(&self, bundle: &Bundle, id: &str, action: &str) -> Output {
        self.command(bundle, id, action).output().expect("the shim")
    }

    /// Has a shim serve the container, and connects to it.
    pub async fn start(&self, bundle: &Bundle, id: &str) -> Shim {
        let output = self.execute(bundle, id, "start");
        assert!(output.status.success(), "{output:?}");
        Shim::connect(String::from_utf8(output.stdout).expect("text").as_str()).await
    }

    /// The runtime's options: this test's configuration.
    pub fn options(&self) -> Any {
        let config = self.host.file("config.toml", self.host.settings.to_string());
        let config = config.to_str().expect("a path in UTF-8");
        shim_options(config)
    }

    /// A request to create the container, with this test's configuration.
    pub fn creation(&self, bundle: &Bundle, id: &str) -> CreateTaskRequest {
        CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.folder().display().to_string(),
            options: MessageField::some(self.options()),
            ..CreateTaskRequest::default()
        }
    }

    /// Waits for an event of that topic, and answers the topics of all that came until then, in short.
    pub async fn events_until(&self, topic: &str) -> Vec<String> {
        let all = || -> Vec<String> {
            let events = self.exchange.events.lock().unwrap();
            events.iter().map(short).collect()
        };
        let wait = async {
            loop {
                let more = self.exchange.more.notified();
                let events = all();
                if events.iter().any(|event| event == topic) {
                    return events;
                }
                more.await;
            }
        };
        timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("no {topic} in {:?}", all()))
    }

    /// The events that came, whole.
    pub fn events(&self) -> Vec<Envelope> {
        self.exchange.events.lock().unwrap().clone()
    }
}

/// An event as one word: what happened, with the process that it happened to, if that is a further one.
fn short(event: &Envelope) -> String {
    let what = event.topic.trim_start_matches("/tasks/");
    let value = event.event.value.as_slice();
    let process = match what {
        "exec-added" => TaskExecAdded::parse_from_bytes(value).expect("valid").exec_id,
        "exec-started" => TaskExecStarted::parse_from_bytes(value).expect("valid").exec_id,
        "exit" => {
            let exit = TaskExit::parse_from_bytes(value).expect("valid");
            if exit.id == exit.container_id {
                String::new()
            } else {
                exit.id
            }
        }
        _ => String::new(),
    };
    format!("{what} {process}").trim_end().to_owned()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The folder of the namespace is the shim's to make; what is in it is the containers'.
        let left: Vec<_> = fs::read_dir(self.root())
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let _ = fs::remove_dir(self.root());
        if !thread::panicking() {
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

impl Shim {
    /// Connects to the shim of that address.
    pub async fn connect(address: &str) -> Self {
        let socket = address.trim().strip_prefix("unix://").expect("a Unix socket");
        let stream = UnixStream::connect(socket).await.expect("the shim listens");
        let client = Client::new(Socket::new(stream));
        Self {
            socket: socket.into(),
            tasks: TaskClient::new(client.clone()),
            sandbox: SandboxClient::new(client.clone()),
            client,
        }
    }

    /// Creates a task and starts it; answers with its pid.
    pub async fn run(&self, creation: &CreateTaskRequest) -> u32 {
        let created = self.tasks.create(Context::default(), creation).await;
        let pid = created.expect("created").pid;
        self.start(&creation.id, "").await.expect("started");
        pid
    }

    /// Sends a request to a method of the task service by its older name.
    pub async fn older<M: Message>(&self, method: &str, request: &impl Message) -> ttrpc::Result<M> {
        let request = ttrpc::Request {
            service: "containerd.task.v2.Task".to_owned(),
            method: method.to_owned(),
            payload: request.write_to_bytes().expect("encodable"),
            ..ttrpc::Request::default()
        };
        let response = self.client.request(request).await?;
        Ok(M::parse_from_bytes(&response.payload).expect("valid"))
    }

    /// The shim's process. One that has just been started takes connections before it has come to its own program and name.
    pub fn pid(&self) -> Pid {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut found = processes::descendants(Pid::this());
            found.retain(|pid| processes::name(*pid).as_deref() == Some("containerd-shim"));
            match found[..] {
                [pid] => return pid,
                [] if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                _ => panic!("{} shims, not one", found.len()),
            }
        }
    }

    /// Starts a container's program, or a further process.
    pub async fn start(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..StartRequest::default()
        };
        Ok(self.tasks.start(Context::default(), &request).await?.pid)
    }

    /// Waits for the end of a process, and answers its exit status.
    pub async fn wait(&self, id: &str, exec_id: &str) -> u32 {
        let request = WaitRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..WaitRequest::default()
        };
        let waited = timeout(LIMIT, self.tasks.wait(Context::default(), &request)).await;
        waited.expect("it ends").expect("known").exit_status
    }

    /// Sends a signal.
    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32) -> ttrpc::Result<()> {
        let request = KillRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            ..KillRequest::default()
        };
        self.tasks.kill(Context::default(), &request).await.map(drop)
    }

    /// Deletes a container or a process, and answers its exit status.
    pub async fn delete(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..DeleteRequest::default()
        };
        Ok(self.tasks.delete(Context::default(), &request).await?.exit_status)
    }

    /// What a process is doing.
    pub async fn status(&self, id: &str, exec_id: &str) -> Status {
        let request = StateRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..StateRequest::default()
        };
        let state = self
            .tasks
            .state(Context::default(), &request)
            .await
            .expect("known");
        state.status.enum_value().expect("a known status")
    }

    /// Tells it that nobody needs it any more.
    pub async fn leave(&self) {
        let shutdown = ShutdownRequest::default();
        self.tasks
            .shutdown(Context::default(), &shutdown)
            .await
            .expect("an answer");
    }

    /// Has the shim end, which is to have no container any more, and waits until it has.
    pub async fn shut_down(self) {
        let pid = self.pid();
        self.leave().await;
        drop((self.client, self.tasks, self.sandbox));
        let gone = tokio::task::spawn_blocking(move || processes::wait_until_gone(pid, LIMIT)).await;
        assert!(gone.expect("no panic"), "the shim stays");
        assert!(!self.socket.exists(), "the socket stays");
    }
}

/// The code of a refusal.
pub fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.code(),
        other => panic!("no refusal: {other:?}"),
    }
}

/// The words of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> String {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.message,
        other => panic!("no refusal: {other:?}"),
    }
}

/// A named pipe, and what comes out of it, as soon as everybody who writes it has gone.
pub struct Pipe {
    /// Its path.
    pub path: PathBuf,
    output: tokio::task::JoinHandle<String>,
}

impl Pipe {
    /// A new one in that folder.
    pub fn new(folder: &Path, name: &str) -> Self {
        let path = folder.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let file = path.clone();
        let output = tokio::task::spawn_blocking(move || fs::read_to_string(file).expect("text"));
        Self { path, output }
    }

    /// All that was written.
    pub async fn output(self) -> String {
        timeout(LIMIT, self.output).await.expect("it ends").expect("read")
    }
}
