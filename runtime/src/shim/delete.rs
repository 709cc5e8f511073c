//! `delete`: what a container has left whose shim has gone is removed, and how it ended is told.

use std::{
    io::Write,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use containerd_shim_protos::{
    api::{DeleteRequest, DeleteResponse, ShutdownRequest},
    shim_async::{Client, TaskClient},
};
use protobuf::{Message, MessageField};
use rustix::mount::UnmountFlags;
use ttrpc::context::Context;

use super::{
    address::Address, command_line::CommandLine, metrics::timestamp, server::root, task::exit_status,
};
use crate::{
    container::remove,
    sandbox::{Exit, Id, StateError, StateFolder},
};

/// How long a shim that lives may take: containerd waits 5 seconds for all of it.
const SHIM: Duration = Duration::from_secs(3);

/// Kills what runs of the container, and removes all that it has.
///
/// # Errors
/// Something of it could not be removed.
pub fn execute(line: &CommandLine) -> anyhow::Result<()> {
    let id: Id = line.id.parse().context("-id")?;
    let mut response = DeleteResponse {
        exit_status: exit_status(Exit::Signal(libc::SIGKILL)),
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    };
    if let Some(answer) = ask_shim(line) {
        response = answer;
    }
    match StateFolder::open(&root(&line.namespace), &id) {
        Err(StateError::Missing(_)) => {}
        folder => {
            let folder = folder?;
            if let Ok(Some(record)) = folder.load() {
                response.pid = record.monitor.pid.unsigned_abs();
                if let Some(exit) = record.exit {
                    response.exit_status = exit_status(exit);
                }
            }
            remove(&folder, true)?;
        }
    }
    remove_rest(line);
    std::io::stdout()
        .write_all(&response.write_to_bytes()?)
        .context("write the answer")
}

/// Has the shim remove it if that lives, and end if it has no other container: what is in the making nobody else knows of.
/// Answers what it did.
fn ask_shim(line: &CommandLine) -> Option<DeleteResponse> {
    let address = Address::read(bundle(line)).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .ok()?;
    let ask = async {
        let tasks = TaskClient::new(Client::connect(&address.url()).await.ok()?);
        let request = DeleteRequest {
            id: line.id.clone(),
            ..DeleteRequest::default()
        };
        let shutdown = ShutdownRequest::default();
        // At once: it goes on with both when nobody waits any more.
        let (deleted, _) = tokio::join!(
            tasks.delete(Context::default(), &request),
            tasks.shutdown(Context::default(), &shutdown),
        );
        deleted.ok()
    };
    runtime.block_on(async { tokio::time::timeout(SHIM, ask).await.ok()? })
}

fn bundle(line: &CommandLine) -> &Path {
    match line.bundle.as_os_str().is_empty() {
        true => Path::new("."),
        false => &line.bundle,
    }
}

/// Takes away what the shim may have left beside the container.
fn remove_rest(line: &CommandLine) {
    let bundle = bundle(line);
    // Nothing is mounted there but by a shim that could not have a mount namespace of its own.
    let _ = rustix::mount::unmount(bundle.join("rootfs"), UnmountFlags::DETACH);
    if let Ok(address) = Address::read(bundle)
        && !address.is_served()
    {
        let _ = address.remove();
    }
}
