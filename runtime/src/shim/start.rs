//! `start`: a container's shim is found or started, and its address printed.

use std::{
    io::{IsTerminal, Read},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use containerd_shim_protos::bootstrap_api::BootstrapParams;
use protobuf::Message;
use serde_json::json;

use super::{
    NAME,
    address::{Address, FOLDER},
    bundle::BundleConfig,
    command_line::CommandLine,
    descriptors,
};

/// The version of the task service that today's containerd has.
const NEWEST: u32 = 3;

/// The longest message on standard input in bytes.
const MAX_MESSAGE: u64 = 1 << 20;

/// Starts the shim of the container whose bundle is the working directory, unless one is there that serves its sandbox.
///
/// # Errors
/// The bundle cannot be read, or the shim not be started; a container whose sandbox has no shim.
pub fn execute(line: &CommandLine) -> anyhow::Result<()> {
    let bundle = std::env::current_dir().context("the bundle")?;
    let config = BundleConfig::load(&bundle).context("read config.json")?;
    let params = params(line).context("read standard input")?;
    let folder = params.as_ref().and_then(|params| params.socket_dir.as_deref());
    let folder = folder.filter(|folder| !folder.is_empty()).unwrap_or(FOLDER);
    let address = Address::of(Path::new(folder), line, config.group().unwrap_or(&line.id));
    if let Some(sandbox) = config.joins() {
        if !address.is_served() {
            bail!(
                "sandbox {sandbox} has no shim that runs, so container {} cannot join it",
                line.id
            );
        }
    } else if let Some(listener) = address.listen().context("make the shim's socket")? {
        serve(line, &address, listener.into()).inspect_err(|_| drop(address.remove()))?;
    }
    address
        .write(&bundle)
        .context("write the address into the bundle")?;
    print!("{}", reply(&address, version(params.is_some())));
    Ok(())
}

/// What containerd 2.3 and later say on standard input; before, it is the runtime's options or nothing.
fn params(line: &CommandLine) -> anyhow::Result<Option<BootstrapParams>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut message = Vec::new();
    stdin.take(MAX_MESSAGE).read_to_end(&mut message)?;
    let params = BootstrapParams::parse_from_bytes(&message).ok();
    Ok(params.filter(|params| params.instance_id == line.id && params.namespace == line.namespace))
}

/// The version of the answer; none: the address alone, as containerd before 1.7 reads it.
fn version(has_params: bool) -> Option<u32> {
    if has_params {
        return Some(NEWEST);
    }
    let limit = std::env::var("MAX_SHIM_VERSION").ok()?.parse::<u32>().ok()?;
    (limit >= 2).then_some(limit.min(NEWEST))
}

/// Starts a process that serves on `listener`.
fn serve(line: &CommandLine, address: &Address, listener: OwnedFd) -> anyhow::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(NAME)
        .args([
            "-namespace",
            &line.namespace,
            "-id",
            &line.id,
            "-address",
            &line.address,
        ])
        .arg("-socket")
        .arg(address.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if line.debug {
        command.arg("-debug");
    }
    descriptors::give(&mut command, [listener]).context("start the shim")?;
    command.spawn().context("start the shim")?;
    Ok(())
}

fn reply(address: &Address, version: Option<u32>) -> String {
    match version {
        Some(version) => {
            json!({"version": version, "address": address.url(), "protocol": "ttrpc"}).to_string()
        }
        None => address.url(),
    }
}
