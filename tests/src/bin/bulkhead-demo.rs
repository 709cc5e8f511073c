//! `make run`'s end: checks the machine, then runs a container as a user would and lets it speak for itself.

use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use bulkhead_tests::harness::Host;

const SCRIPT: &str = r#"echo "Hello from a container in a microVM of its own."
echo "It is process $$ on host $(hostname), with $(nproc) CPU and this kernel:"
uname -srv"#;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let host = Host::new();
    show("bulkhead check", host.bulkhead().args(["check"]).command())?;
    let bundle = host.script(SCRIPT);
    show(
        "bulkhead run --bundle … hello",
        host.run_as(&bundle, "hello").command(),
    )?;
    Ok(())
}

fn show(what: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("$ {what}");
    let status = command.status().with_context(|| what.to_owned())?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}
