//! The command line: one file per subcommand.

mod check;
mod checkpoint;
mod completion;
mod create;
mod creation;
mod delete;
mod events;
mod exec;
mod features;
mod help;
mod kill;
mod list;
mod man;
mod metrics;
mod mistake;
mod output;
mod pause;
mod ps;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::{
    config::ConfigError,
    container::{
        CreationError, ExecError, HandOverError, PidFileError, RemovalError, TerminalError,
        control::ControlError, hooks::HookFailure,
    },
    logging::{self, Format},
    oci::{BundleError, FieldError, FurtherProcessError, OCI_VERSION},
    sandbox::{
        AgentError, AppArmorError, CgroupError, Driver, Id, IdError, State, StateError, StateFolder,
        Status as ContainerStatus,
    },
};

/// Runs OCI containers, each in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = help::EXPLANATION
)]
struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What every subcommand takes.
#[derive(Debug, Args)]
struct Global {
    /// Folder for the state of containers
    #[arg(long, value_name = "DIR", default_value = "/run/bulkhead")]
    root: PathBuf,
    /// File that the log is appended to
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: Format,
    /// Log what is done, not only what goes wrong
    #[arg(long)]
    debug: bool,
    /// Configuration file, by default /etc/bulkhead/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Have systemd make the cgroups; config.json's cgroupsPath is slice:prefix:name then
    #[arg(long)]
    systemd_cgroup: bool,
    /// Accepted for compatibility; only root can run containers
    #[arg(long, value_name = "BOOL")]
    rootless: Option<String>,
    /// Print the version
    #[arg(short, long)]
    version: bool,
}

impl Global {
    /// The state folder of a container.
    fn folder(&self, id: &Id) -> Result<StateFolder, StateError> {
        StateFolder::open(&self.root, id)
    }

    /// A container of that name, which was created at least.
    fn container(&self, id: String) -> Result<(StateFolder, State), Error> {
        let id = Id::try_from(id)?;
        let folder = self.folder(&id)?;
        let state = folder.load()?.ok_or(StateError::Missing(id))?;
        Ok((folder, state))
    }

    /// Who makes the cgroups.
    fn driver(&self) -> Driver {
        if self.systemd_cgroup {
            Driver::Systemd
        } else {
            Driver::Cgroupfs
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Create(create::Create),
    Start(start::Start),
    Kill(kill::Kill),
    Spec(spec::Spec),
    Features(features::Features),
    Check(check::Check),
    State(state::State),
    List(list::List),
    Delete(delete::Delete),
    Exec(exec::Exec),
    Ps(ps::Ps),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Update(update::Update),
    Events(events::Events),
    Metrics(metrics::Metrics),
    Checkpoint(checkpoint::Checkpoint),
    Restore(checkpoint::Restore),
    Completion(completion::Completion),
    Man(man::Man),
    Help(help::Help),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error("{action}: {source}")]
    Io { action: String, source: std::io::Error },
    #[error(transparent)]
    Creation(#[from] CreationError),
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error(transparent)]
    Removal(#[from] RemovalError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Hook(#[from] HookFailure),
    #[error("--preserve-fds: a virtual machine cannot be given descriptors of its host; only 0 is possible")]
    PreserveFds,
    #[error("cannot allocate tty if bulkhead will detach without setting console socket")]
    NoConsoleSocket,
    #[error("cannot use console socket if bulkhead will not detach or allocate tty")]
    ConsoleSocket,
    #[error("cannot start an already running container")]
    Running,
    #[error("cannot start a container that has stopped")]
    Stopped,
    #[error("cannot start a container in the {0} state")]
    NotCreated(ContainerStatus),
    #[error("container not running")]
    NotRunning,
    #[error("exec failed: {0}")]
    Exec(Box<Error>),
    #[error(transparent)]
    ExecProcess(#[from] ExecError),
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    #[error(transparent)]
    FurtherProcess(#[from] FurtherProcessError),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("cannot exec in a stopped container: container not running")]
    ExecStopped,
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    #[error("--cgroup {0:?}: the guest has cgroup v2, which has no controllers in paths")]
    CgroupController(String),
    #[error("--user {0:?}: is no UID[:GID], which are numbers")]
    User(String),
    #[error("ps: option {0:?} is not supported: the table is that of ps -ef")]
    PsOption(String),
    #[error("invalid value for {option}: invalid size: {text:?}")]
    Size { option: &'static str, text: String },
    #[error("--resources: {0}")]
    Resources(String),
    #[error("container with id {0} is not running")]
    NoEvents(Id),
    #[error("{0}: there are no snapshots of virtual machines yet, which this is to be done by")]
    NoSnapshots(&'static str),
    #[error("unknown signal {0:?}")]
    UnknownSignal(String),
    #[error("unrecognized subcommand {0:?}; see bulkhead --help")]
    NoCommand(String),
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    #[error("the monitor was killed by signal {0}; what it had made has been removed")]
    MonitorKilled(i32),
    #[error("only root can run containers: bulkhead makes mounts, cgroups and virtual machines")]
    NotRoot,
}

impl Error {
    /// The last lines of the guest's console, as far as they tell something about the error.
    fn console(&self) -> &[String] {
        match self {
            Self::Creation(error) => error.console(),
            _ => &[],
        }
    }
}

/// What a command that did not fail exits with.
type Status = Result<ExitCode, Error>;

/// What a command runs in that asks the agent.
fn event_loop() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(io("make an event loop"))
}

fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io {
        action: action.into(),
        source,
    }
}

/// Does what the command line asks.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return help::print(&error).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS);
        }
        Err(error) => return ExitCode::from(mistake::report(&error)),
    };
    line.execute().unwrap_or_else(|error| fail(&error))
}

fn fail(error: &Error) -> ExitCode {
    logging::report(error, error.console());
    ExitCode::FAILURE
}

impl CommandLine {
    fn execute(self) -> Status {
        let global = self.global;
        logging::set_up(global.log.as_deref(), global.log_format, global.debug).map_err(io(global
            .log
            .as_deref()
            .map_or_else(String::new, |file| file.display().to_string())))?;
        match self.command {
            Some(Command::Run(run)) => run.execute(&global),
            Some(Command::Create(create)) => create.execute(&global),
            Some(Command::Start(start)) => start.execute(&global),
            Some(Command::Kill(kill)) => kill.execute(&global),
            Some(Command::Spec(spec)) => spec.execute(),
            Some(Command::Features(features)) => features.execute(),
            Some(Command::Check(check)) => check.execute(&global),
            Some(Command::State(state)) => state.execute(&global),
            Some(Command::List(list)) => list.execute(&global),
            Some(Command::Delete(delete)) => delete.execute(&global),
            Some(Command::Exec(exec)) => exec.execute(&global),
            Some(Command::Ps(ps)) => ps.execute(&global),
            Some(Command::Pause(pause)) => pause.execute(&global),
            Some(Command::Resume(resume)) => resume.execute(&global),
            Some(Command::Update(update)) => update.execute(&global),
            Some(Command::Events(events)) => events.execute(&global),
            Some(Command::Metrics(metrics)) => metrics.execute(&global),
            Some(Command::Checkpoint(checkpoint)) => checkpoint.execute(),
            Some(Command::Restore(restore)) => restore.execute(),
            Some(Command::Completion(completion)) => completion.execute(),
            Some(Command::Man(man)) => man.execute(),
            Some(Command::Help(help)) => help.execute(),
            None => {
                let text = if global.version {
                    format!(
                        "bulkhead version {}\nspec: {OCI_VERSION}\n",
                        env!("CARGO_PKG_VERSION")
                    )
                } else {
                    help::text(&CommandLine::command())
                };
                output::print(&text)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn run_takes_what_runc_takes() {
        let line = CommandLine::try_parse_from([
            "bulkhead",
            "--root",
            "/r",
            "--log",
            "/l",
            "--log-format",
            "json",
            "--debug",
            "run",
            "--bundle",
            "/b",
            "id",
        ])
        .expect("valid");
        assert_eq!(line.global.log_format, Format::Json);
        assert!(matches!(line.command, Some(Command::Run(_))));
    }

    #[test]
    fn an_unknown_command_is_told_apart() {
        let error = CommandLine::try_parse_from(["bulkhead", "frobnicate"]).expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
    }
}
