//! The process that serves containerd, from the first container of a sandbox to its end.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::Notify;
use ttrpc::r#async::{Server, transport::Listener};

use super::{
    command_line::CommandLine, context::Context, descriptors, events::Publisher, privileges, reaper::Reaper,
    rootfs, sandbox_service::SandboxService, standin::Commands, task_service::TaskService, tasks::Tasks,
};
use crate::{
    logging::{self, Format},
    sandbox::Id,
};

/// Below it, the state folders of each of containerd's namespaces are in a folder of its name.
const ROOT: &str = "/run/containerd/bulkhead";

/// How long containerd may take to take the last events of a shim that it has told to end.
const LAST_STEPS: Duration = Duration::from_secs(10);

/// Where the state folders of a namespace's containers are.
pub fn root(namespace: &str) -> PathBuf {
    Path::new(ROOT).join(namespace)
}

/// Serves, in the bundle of the first container as the working directory, until containerd says that it is enough.
///
/// # Errors
/// What a shim needs is not to be had.
pub fn execute(line: &CommandLine) -> anyhow::Result<()> {
    let listener =
        UnixListener::from(descriptors::inherited(descriptors::FIRST).context("the shim's socket")?);
    // Nothing that is sent to containerd's process group is for this process.
    rustix::process::setsid().context("lead a session")?;
    let bundle = std::env::current_dir().context("the bundle")?;
    let log = Some(bundle.join("log")).filter(|log| is_pipe(log));
    if log.is_some() {
        let id: Id = line.id.parse().context("-id")?;
        logging::set_subject(&id, &id);
        logging::set_up(log.as_deref(), Format::Text, line.debug).context("the log")?;
    }
    rootfs::leave_mount_namespace().context("make a mount namespace")?;
    privileges::drop_most().context("give up privileges")?;
    rustix::process::chdir("/").context("leave the bundle")?;
    let signals = Reaper::prepare().context("wait for children")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("make an event loop")?;
    let served = runtime.block_on(serve(line, listener, signals, log));
    // Requests that nobody answers any more are no reason to stay.
    runtime.shutdown_background();
    match fs::remove_file(&line.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove the socket"),
        _ => served,
    }
}

async fn serve(
    line: &CommandLine,
    listener: UnixListener,
    signals: OwnedFd,
    log: Option<PathBuf>,
) -> anyhow::Result<()> {
    let reaper = Reaper::start(signals).context("wait for children")?;
    let context = Arc::new(Context {
        namespace: line.namespace.clone(),
        commands: Commands {
            root: root(&line.namespace),
            log,
            debug: line.debug,
            config: line.config.clone(),
            reaper: Arc::clone(&reaper),
        },
        reaper,
        events: Publisher::start(events_socket(line), &line.namespace),
    });
    let shutdown = Arc::new(Notify::new());
    let tasks = Arc::new(Tasks::new(Arc::clone(&context)));
    let service = TaskService {
        tasks: Arc::clone(&tasks),
        shutdown: Arc::clone(&shutdown),
    };
    let sandbox_service = SandboxService {
        tasks,
        shutdown: Arc::clone(&shutdown),
    };
    listener.set_nonblocking(true).context("the shim's socket")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("the shim's socket")?;
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(service.under_both_names())
        .register_service(sandbox_service.under_its_name());
    server.start().await.context("serve")?;
    shutdown.notified().await;
    // A containerd that does not take them any more does not miss them.
    let _ = tokio::time::timeout(LAST_STEPS, context.events.delivered()).await;
    server.stop_listen().await;
    Ok(())
}

/// Where containerd takes events.
fn events_socket(line: &CommandLine) -> PathBuf {
    match std::env::var_os("TTRPC_ADDRESS") {
        Some(address) => address.into(),
        None => format!("{}.ttrpc", line.address).into(),
    }
}

fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}
