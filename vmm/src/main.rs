//! The VMM's process: reads the configuration, runs the microVM, reports how it ended.

#![warn(
    clippy::cast_lossless,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::Context;
use bulkhead_vmm::config::VmConfig;
use bulkhead_vmm::console::Console;
use bulkhead_vmm::failure::AtStage;
use bulkhead_vmm::inherited::Inherited;
use bulkhead_vmm::report::{Outcome, Reporter, Stage};
use bulkhead_vmm::resources::Resources;
use bulkhead_vmm::vm;

const HELP: &str = "\
bulkhead-vmm: runs one KVM microVM

Usage: bulkhead-vmm --config-fd N
       bulkhead-vmm --version | --help

The configuration is JSON, read from descriptor N to its end; it names further descriptors, all inherited.
It is started by bulkhead and by containerd-shim-bulkhead-v2, not by hand.
Exit status: 0 when the guest switched itself off or was stopped by request, 1 otherwise.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--version"] => println!("bulkhead-vmm {}", env!("CARGO_PKG_VERSION")),
        ["--help"] => print!("{HELP}"),
        ["--config-fd", number] => return run(number),
        _ => {
            eprint!("bulkhead-vmm: wrong arguments\n\n{HELP}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs the microVM that the configuration describes.
fn run(config_fd: &str) -> ExitCode {
    let mut inherited = Inherited::default();
    let (config, report) = match read_configuration(config_fd, &mut inherited) {
        Ok(read) => read,
        Err(error) => {
            // There is no report descriptor yet to say it on.
            eprintln!("bulkhead-vmm: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let console = Console::default();
    let reporter = Reporter::new(report, console.clone());
    reporter.install_panic_hook();
    let outcome = Resources::take(config, &mut inherited)
        .at(Stage::Configuration)
        .and_then(|resources| vm::run(resources, &console, &reporter))
        .unwrap_or_else(Outcome::from);
    let status = match outcome {
        Outcome::PowerOff | Outcome::Stopped => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    };
    reporter.report(outcome);
    status
}

/// Reads the configuration, and takes over the descriptor on which all that follows is reported.
fn read_configuration(
    config_fd: &str,
    inherited: &mut Inherited,
) -> anyhow::Result<(VmConfig, Option<OwnedFd>)> {
    let number = config_fd
        .parse()
        .with_context(|| format!("--config-fd {config_fd}"))?;
    let mut text = Vec::new();
    File::from(inherited.take("--config-fd", number)?)
        .read_to_end(&mut text)
        .context("cannot read the configuration")?;
    let config: VmConfig =
        serde_json::from_slice(&text).context("the configuration is not as it should be")?;
    let report = inherited.take_optional("report", config.report)?;
    Ok((config, report))
}
