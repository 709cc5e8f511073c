//! `bulkhead-testbed`: run something in the emulated host.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use bulkhead_tests::runner::{self, Plan};
use bulkhead_tests::testbed::channel::Run;
use bulkhead_tests::testbed::client::{self, Ended, Endpoint, Input, Stream};
use bulkhead_tests::testbed::named::Named;
use bulkhead_tests::testbed::place::Place;
use bulkhead_tests::testbed::{L1, Options, cache, terminal};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Exit code for a failure of the testbed itself.
const TESTBED_FAILED: u8 = 125;
/// Exit code for a command that took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// An emulated host with a working KVM, for machines whose own cannot run stock guests. It has this machine's root
/// file system (writes go to memory) and the work tree, read-write.
#[derive(Parser)]
#[command(name = "bulkhead-testbed")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a command as root, in a new L1 or in one that is up; its exit code is ours
    Exec {
        #[command(flatten)]
        which: Which,
        /// Run it right here if this machine's KVM can run stock guests
        #[arg(long, conflicts_with = "name")]
        here_if_possible: bool,
        /// Working folder in L1
        #[arg(short = 'C', long)]
        dir: Option<PathBuf>,
        /// Set a variable, KEY=VALUE
        #[arg(short, long)]
        env: Vec<String>,
        /// Kill the command after so many seconds (exit code 124)
        #[arg(short, long)]
        timeout: Option<f64>,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run the tests of libtest binaries one by one, here or in L1s, as this machine's KVM allows
    Run {
        /// How many at a time; each L1 keeps one core busy
        #[arg(short, long, default_value_t = 2)]
        jobs: usize,
        /// Kill a test after so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 900.0)]
        timeout_per_test: f64,
        /// Where to run them [default: what this machine's KVM allows]
        #[arg(long, value_enum)]
        place: Option<PlaceName>,
        /// Memory of an L1, MiB
        #[arg(short, long, default_value_t = 3072)]
        memory: u32,
        /// Only tests whose BINARY::NAME contains this
        filter: Option<String>,
        /// The binaries [default: cargo builds the integration tests]
        #[arg(last = true)]
        binaries: Vec<PathBuf>,
    },
    /// Open a shell
    Shell {
        #[command(flatten)]
        which: Which,
    },
    /// Start an L1 that stays up under a name
    Up {
        #[command(flatten)]
        which: Which,
        #[arg(long, hide = true)]
        keeper: bool,
    },
    /// End an L1 that is up under a name
    Down {
        /// Its name
        #[arg(long)]
        name: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum PlaceName {
    Host,
    L1,
}

impl From<PlaceName> for Place {
    fn from(name: PlaceName) -> Self {
        match name {
            PlaceName::Host => Self::Host,
            PlaceName::L1 => Self::L1 {
                why: "as asked".into(),
            },
        }
    }
}

#[derive(Args)]
struct Which {
    /// Use, or start, the L1 with this name, which stays up
    #[arg(long)]
    name: Option<String>,
    /// Memory of a new L1, MiB
    #[arg(short, long, default_value_t = 2048)]
    memory: u32,
    /// Folder that a new L1 shares read-write [default: the Cargo workspace around the current folder]
    #[arg(long)]
    share: Option<PathBuf>,
}

impl Which {
    fn options(&self) -> anyhow::Result<Options> {
        let mut options = Options::new()?;
        options.memory_mib = self.memory;
        if let Some(share) = &self.share {
            options.work_tree.clone_from(share);
        }
        Ok(options)
    }

    /// Calls `use_it` with the L1 that is up under the name, or with a new one that ends afterwards.
    fn with<T>(&self, use_it: impl FnOnce(&Endpoint) -> anyhow::Result<T>) -> anyhow::Result<T> {
        match &self.name {
            Some(name) => use_it(&Named::find(name)?.endpoint),
            None => use_it(L1::start(&self.options()?)?.endpoint()),
        }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead-testbed: {error:#}");
            ExitCode::from(TESTBED_FAILED)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.verb {
        Verb::Exec {
            which,
            here_if_possible,
            dir,
            env,
            timeout,
            command,
        } => {
            if *here_if_possible {
                match Place::decide() {
                    Place::Host => return run_here(dir.as_deref(), env, command),
                    place => eprintln!("running {place}"),
                }
            }
            let dir = dir.clone().map_or_else(std::env::current_dir, Ok)?;
            let mut variables = client::inherited_environment();
            for pair in env {
                variables.push(split_variable(pair)?);
            }
            let run = Run {
                args: command.clone(),
                env: variables,
                dir: Some(dir.to_string_lossy().into_owned()),
                ..Run::default()
            };
            let limit = timeout
                .map(Duration::try_from_secs_f64)
                .transpose()
                .context("--timeout")?;
            which.with(|l1| execute(l1, run, limit))
        }
        Verb::Run {
            jobs,
            timeout_per_test,
            place,
            memory,
            filter,
            binaries,
        } => {
            let absolute = |path: &PathBuf| path.canonicalize().with_context(|| path.display().to_string());
            let plan = Plan {
                binaries: if binaries.is_empty() {
                    runner::build_integration_tests()?
                } else {
                    binaries.iter().map(absolute).collect::<anyhow::Result<_>>()?
                },
                filter: filter.clone(),
                jobs: *jobs,
                limit: Duration::try_from_secs_f64(*timeout_per_test).context("--timeout-per-test")?,
                durations: Some(cache::folder()?.join("durations.json")),
                place: place.map_or_else(Place::decide, Into::into),
                l1: Options {
                    memory_mib: *memory,
                    ..Options::new()?
                },
            };
            let passed = runner::run(&plan)?.is_success();
            Ok(if passed {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Verb::Shell { which } => {
            let dir = std::env::current_dir()?.to_string_lossy().into_owned();
            let run = Run {
                args: vec!["bash".into()],
                env: vec![(
                    "TERM".into(),
                    std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
                )],
                dir: Some(dir),
                terminal: terminal::size(),
                ..Run::default()
            };
            which.with(|l1| {
                let _raw = run.terminal.and_then(|_| terminal::Raw::enter());
                execute(l1, run, None)
            })
        }
        Verb::Up { which, keeper } => {
            let name = which
                .name
                .as_deref()
                .context("an L1 that stays up needs a --name")?;
            if *keeper {
                keep(name, which)
            } else {
                start_keeper(name)
            }
        }
        Verb::Down { name } => {
            Named::end(name)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_here(dir: Option<&Path>, env: &[String], command: &[String]) -> anyhow::Result<ExitCode> {
    let (program, args) = command.split_first().context("no command")?;
    let mut here = Command::new(program);
    here.args(args);
    for pair in env {
        let (key, value) = split_variable(pair)?;
        here.env(key, value);
    }
    if let Some(dir) = dir {
        here.current_dir(dir);
    }
    Err(here.exec()).with_context(|| program.clone())
}

fn split_variable(pair: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = pair
        .split_once('=')
        .with_context(|| format!("--env {pair}: not KEY=VALUE"))?;
    Ok((key.into(), value.into()))
}

fn execute(l1: &Endpoint, run: Run, limit: Option<Duration>) -> anyhow::Result<ExitCode> {
    let mut print = |stream, data: &[u8]| {
        // A closed pipe on our side is no reason to lose the exit code.
        let _ = match stream {
            Stream::Stdout => io::stdout().write_all(data).and_then(|()| io::stdout().flush()),
            Stream::Stderr => io::stderr().write_all(data),
        };
    };
    let ended = l1.run(run, Input::Inherit, &mut print, limit)?;
    Ok(match ended {
        Ended::Exit(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        Ended::TimedOut => {
            eprintln!("bulkhead-testbed: timed out");
            ExitCode::from(TIMED_OUT)
        }
    })
}

/// Starts ourselves again as the process that holds the L1, and waits until it says that L1 is up.
fn start_keeper(name: &str) -> anyhow::Result<ExitCode> {
    if Named::find(name).is_ok() {
        bail!("an L1 named {name} is up already");
    }
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(std::env::args_os().skip(1))
        .arg("--keeper")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // SAFETY: setsid(2) is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let mut keeper = command.spawn()?;
    let stdout = keeper.stdout.take().context("the keeper's output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        bail!("L1 {name} did not come up");
    }
    print!("{line}");
    Ok(ExitCode::SUCCESS)
}

fn keep(name: &str, which: &Which) -> anyhow::Result<ExitCode> {
    let mut l1 = L1::start(&which.options()?)?;
    let keeper = std::process::id().cast_signed();
    Named {
        keeper,
        endpoint: l1.endpoint().clone(),
    }
    .publish(name)?;
    println!("L1 {name} is up");
    // Whoever started us may be waiting for the end of our output.
    let null = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    l1.wait();
    Ok(ExitCode::FAILURE)
}
