//! A shim's task, started as containerd starts it, without a containerd.

use std::fs::{self, File};
use std::io;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use async_trait::async_trait;
use containerd_shim_protos::api::{CreateTaskRequest, Empty, ForwardRequest, StartRequest};
use containerd_shim_protos::shim_async::{Client, Events, create_events};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use protobuf::Message;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use ttrpc::r#async::{Server, TtrpcContext, transport::Socket};

use crate::shim_options::shim_options;

/// Where the shims report what happens, and containerd's own socket, which is not there.
const EVENTS: &str = "/run/containerd.sock.ttrpc";
const ADDRESS: &str = "/run/containerd.sock";

/// What the shim's start reads.
const INPUT: &str = "/run/shim-input";

/// What has to be there before a task is started.
pub struct Task {
    start_shim: Command,
    creation: CreateTaskRequest,
    runtime: Runtime,
    log: File,
}

impl Task {
    /// Gets ready to start it as run number `run`.
    pub fn new(shim: &str, bundle: &str, config: Option<&str>, run: usize) -> io::Result<Self> {
        static EXCHANGE: OnceLock<()> = OnceLock::new();
        EXCHANGE.get_or_init(listen_for_events);
        let id = format!("task-{run}");
        let (bundle, log) = make_bundle(bundle, &id)?;
        let options = config.map(shim_options);
        fs::write(
            INPUT,
            options
                .as_ref()
                .map(|options| options.write_to_bytes().map_err(io::Error::other))
                .transpose()?
                .unwrap_or_default(),
        )?;
        let mut start_shim = Command::new(shim);
        start_shim
            .args(["-namespace", "bench", "-address", ADDRESS])
            .args([
                "-publish-binary",
                "/bin/false",
                "-id",
                &id,
                "-bundle",
                &bundle,
                "start",
            ])
            .current_dir(&bundle)
            .env_clear()
            .env("PATH", "/usr/bin:/usr/sbin")
            .env("TTRPC_ADDRESS", EVENTS)
            .stdin(File::open(INPUT)?)
            .stderr(File::options().create(true).append(true).open("/run/stderr")?)
            .stdout(Stdio::piped());
        let creation = CreateTaskRequest {
            id,
            bundle,
            options: options.into(),
            ..CreateTaskRequest::default()
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            start_shim,
            creation,
            runtime,
            log,
        })
    }

    /// Returns when its program runs, with what the shim logs.
    pub fn start(mut self) -> io::Result<File> {
        let started = self.start_shim.output()?;
        if !started.status.success() {
            return Err(io::Error::other(format!("the shim: {}", started.status)));
        }
        let address = String::from_utf8_lossy(&started.stdout).into_owned();
        let socket = address.trim().trim_start_matches("unix://");
        let calls = async {
            let client = Client::new(Socket::new(UnixStream::connect(socket).await?));
            let start = StartRequest {
                id: self.creation.id.clone(),
                ..StartRequest::default()
            };
            call(&client, "Create", &self.creation).await?;
            call(&client, "Start", &start).await
        };
        self.runtime.block_on(calls)?;
        Ok(self.log)
    }
}

/// Calls the task service by the name that it has had from the start, which shims of Debian 12 know.
async fn call(client: &Client, method: &str, request: &impl Message) -> io::Result<()> {
    let request = ttrpc::Request {
        service: "containerd.task.v2.Task".to_owned(),
        method: method.to_owned(),
        payload: request.write_to_bytes().map_err(io::Error::other)?,
        ..ttrpc::Request::default()
    };
    let response = client.request(request).await.map_err(io::Error::other)?;
    if response.status().code() == ttrpc::Code::OK {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{method}: {}",
        response.status().message
    )))
}

/// A folder of the task's own with the configuration, in which `{id}` becomes the task's, and the pipe to which shims log, held open.
fn make_bundle(bundle: &str, id: &str) -> io::Result<(String, File)> {
    let folder = format!("/run/tasks/{id}");
    fs::create_dir_all(&folder)?;
    let config = fs::read_to_string(format!("{bundle}/config.json"))?;
    fs::write(format!("{folder}/config.json"), config.replace("{id}", id))?;
    let log = format!("{folder}/log");
    mkfifo(log.as_str(), Mode::S_IRWXU)?;
    let log = File::options().read(true).write(true).open(log)?;
    Ok((folder, log))
}

/// Takes what shims report, on a thread of its own, for ever.
fn listen_for_events() {
    let serve = async {
        let server = Server::new().bind(&format!("unix://{EVENTS}"));
        let mut server = server
            .expect("a socket")
            .register_service(create_events(std::sync::Arc::new(Exchange)));
        server.start().await.expect("a server");
        std::future::pending::<()>().await;
    };
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(serve);
    });
}

/// Takes events, and says so.
struct Exchange;

#[async_trait]
impl Events for Exchange {
    async fn forward(&self, _: &TtrpcContext, _: ForwardRequest) -> ttrpc::Result<Empty> {
        Ok(Empty::default())
    }
}
