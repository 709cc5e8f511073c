//! `start`: a container's shim is found or started, and its address printed.

use std::{
    io::{IsTerminal, Read},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use containerd_shim_protos::bootstrap_api::BootstrapParams;
use protobuf::{Message, well_known_types::any::Any};
use serde_json::json;

use super::{
    NAME,
    address::{Address, FOLDER},
    bundle::BundleConfig,
    command_line::CommandLine,
    descriptors,
    options::Options,
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
    let input = Input::read(line).context("read standard input")?;
    let address = Address::of(input.socket_folder(), line, config.group().unwrap_or(&line.id));
    if let Some(sandbox) = config.joins() {
        if !address.is_served() {
            bail!(
                "sandbox {sandbox} has no shim that runs, so container {} cannot join it",
                line.id
            );
        }
    } else if let Some(listener) = address.listen().context("make the shim's socket")? {
        serve(line, &address, &input.options, listener.into()).inspect_err(|_| drop(address.remove()))?;
    }
    address
        .write(&bundle)
        .context("write the address into the bundle")?;
    print!("{}", reply(&address, input.version()));
    Ok(())
}

/// What containerd says on standard input.
#[derive(Default)]
struct Input {
    /// Since version 2.3.
    params: Option<BootstrapParams>,
    /// The runtime's.
    options: Options,
}

impl Input {
    fn read(line: &CommandLine) -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Ok(Self::default());
        }
        let mut message = Vec::new();
        stdin.take(MAX_MESSAGE).read_to_end(&mut message)?;
        let params = BootstrapParams::parse_from_bytes(&message).ok();
        // Before, it was the options, or nothing; what they are, no message says.
        let params =
            params.filter(|params| params.instance_id == line.id && params.namespace == line.namespace);
        let extensions = match &params {
            Some(params) => params
                .extensions
                .iter()
                .map(|extension| extension.value.get_or_default().clone())
                .collect(),
            None => vec![Any::parse_from_bytes(&message)?],
        };
        let mut options = Options::default();
        for extension in &extensions {
            let read = Options::read(extension)?;
            options.config = read.config.or(options.config);
        }
        Ok(Self { params, options })
    }

    /// The folder for sockets.
    fn socket_folder(&self) -> &Path {
        let folder = self
            .params
            .as_ref()
            .and_then(|params| params.socket_dir.as_deref());
        Path::new(folder.filter(|folder| !folder.is_empty()).unwrap_or(FOLDER))
    }

    /// The version of the answer; none: the address alone, as containerd before 1.7 reads it.
    fn version(&self) -> Option<u32> {
        if self.params.is_some() {
            return Some(NEWEST);
        }
        let limit = std::env::var("MAX_SHIM_VERSION").ok()?.parse::<u32>().ok()?;
        (limit >= 2).then_some(limit.min(NEWEST))
    }
}

/// Starts a process that serves on `listener`.
fn serve(line: &CommandLine, address: &Address, options: &Options, listener: OwnedFd) -> anyhow::Result<()> {
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
    if let Some(config) = &options.config {
        command.arg("-config").arg(config);
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
