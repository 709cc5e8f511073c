//! `make conformance`: runs the runtime-spec's validation suite against bulkhead and runc, and writes
//! docs/conformance.md.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bulkhead_tests::conformance::{self, ConformanceError, Results, Runtime, Suite, Verdict};
use bulkhead_tests::harness::{self, Host};
use clap::Parser;

/// Where Debian installs runc.
const RUNC: &str = "/usr/sbin/runc";

/// Runs the runtime-spec's validation suite against bulkhead and Debian's runc. Needs a KVM that runs stock guests.
#[derive(Parser)]
#[command(name = "bulkhead-conformance")]
struct Cli {
    /// Folder in which opencontainers/runtime-tools was built
    #[arg(long)]
    suite: PathBuf,
    /// Run only tests whose name contains this, and write no document
    #[arg(long)]
    only: Option<String>,
    /// Folder for what the tests print
    #[arg(long, default_value = "target/conformance")]
    output: PathBuf,
    /// The document to write
    #[arg(long, default_value = "docs/conformance.md")]
    document: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-conformance: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), ConformanceError> {
    harness::check_artifacts()?;
    let suite = Suite::open(&cli.suite)?;
    let tests = suite.tests(cli.only.as_deref().unwrap_or_default())?;
    let host = Host::new();
    let runtimes = [
        Runtime::find("bulkhead", host.runtime())?,
        Runtime::find("runc", RUNC.into())?,
    ];
    let mut results = Vec::new();
    for runtime in runtimes {
        let output = cli.output.join(&runtime.name);
        let verdicts = run_all(&suite, &tests, &runtime, &output)?;
        results.push((runtime.name, verdicts));
    }
    match cli.only {
        Some(_) => Ok(()),
        None => conformance::write(&cli.document, &results),
    }
}

fn run_all(
    suite: &Suite,
    tests: &[String],
    runtime: &Runtime,
    output: &Path,
) -> Result<Results, ConformanceError> {
    std::fs::create_dir_all(output).map_err(|source| ConformanceError::File {
        path: output.to_owned(),
        source,
    })?;
    let mut results = Results::new();
    for test in tests {
        let verdict = suite.run(test, runtime, &output.join(test))?;
        match &verdict {
            Verdict::Passed => println!("{} pass {test}", runtime.name),
            Verdict::Skipped => println!("{} skip {test}", runtime.name),
            Verdict::Failed(why) => println!("{} FAIL {test}: {why}", runtime.name),
        }
        results.insert(test.clone(), verdict);
    }
    Ok(results)
}
