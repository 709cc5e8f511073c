//! `delete`: what a container has left whose shim has gone is removed, and how it ended is told.

use std::{io::Write, path::Path, time::SystemTime};

use anyhow::Context;
use containerd_shim_protos::api::DeleteResponse;
use protobuf::{Message, MessageField};
use rustix::mount::UnmountFlags;

use super::{
    address::Address, command_line::CommandLine, metrics::timestamp, server::root, task::exit_status,
};
use crate::{
    container::remove,
    sandbox::{Exit, Id, StateError, StateFolder},
};

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

/// Takes away what the shim may have left beside the container.
fn remove_rest(line: &CommandLine) {
    let bundle = match line.bundle.as_os_str().is_empty() {
        true => Path::new("."),
        false => &line.bundle,
    };
    // Nothing is mounted there but by a shim that could not have a mount namespace of its own.
    let _ = rustix::mount::unmount(bundle.join("rootfs"), UnmountFlags::DETACH);
    if let Ok(address) = Address::read(bundle)
        && !address.is_served()
    {
        let _ = address.remove();
    }
}
