//! `bulkhead exec`

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use rustix::process::PidfdFlags;
use serde::Deserialize;
use serde_json::Value;

use super::{Error, Global, Status, io};
use crate::{
    container::{
        Console, Detached, Exec as Process, ExecError, Foreground, GivenStreams, StandardStreams, Terminal,
        hand_over, write_pid_file,
    },
    logging,
    oci::{Changes, ConsoleSize, FurtherProcess, UserChange},
    sandbox::{AppArmorProfile, Exit, GuestSocket, State, StateFolder, Status as ContainerStatus},
};

/// What callers expect when a program could not be run.
const CANNOT_RUN: u8 = 255;

/// The exit status of a program that went down with its virtual machine.
const KILLED: u8 = 128 + 9;

/// Run another program in a container
#[derive(Debug, Args)]
pub struct Exec {
    /// Unix socket that gets the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that gets a descriptor of the process's stand-in
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Set a variable of the environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run as this user, and group if given; numbers
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Run with this group in addition
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Run the process that this JSON file describes; what else is given about the process is ignored
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return as soon as the program runs
    #[arg(short, long)]
    detach: bool,
    /// File that gets the pid of the process's stand-in
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Let neither the process nor what it starts gain privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Give the process this capability in addition
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Descriptors to be passed on; a virtual machine can be given none
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Run in this cgroup, a path below the container's own
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Run in a paused container, too; the program waits until it is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// Descriptors 3, 4 and 5 are the process's standard streams, and carry its terminal if it has one
    #[arg(long, hide = true, requires = "detach")]
    streams: bool,
    /// What the agent is to call the process, unique in the container
    #[arg(long, hide = true, value_name = "NAME")]
    process_id: Option<String>,
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
}

/// The part of `config.json` that matters here.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    process: Value,
}

impl Exec {
    pub fn execute(self, global: &Global) -> Status {
        Ok(match self.carry_out(global) {
            Ok(exit) => ExitCode::from(u8::try_from(exit.code()).unwrap_or(u8::MAX)),
            Err(error) => {
                let code = match error {
                    Error::ExecProcess(ExecError::Lost) => KILLED,
                    _ => CANNOT_RUN,
                };
                logging::report(&Error::Exec(Box::new(error)), &[]);
                ExitCode::from(code)
            }
        })
    }

    fn carry_out(mut self, global: &Global) -> Result<Exit, Error> {
        if self.preserve_fds > 0 {
            return Err(Error::PreserveFds);
        }
        let (folder, state) = global.container(std::mem::take(&mut self.id))?;
        logging::set_subject(&state.sandbox, &state.id);
        self.check(&state)?;
        let (detach, pid_file) = (self.detach, self.pid_file.take());
        let pidfd_socket = self.pidfd_socket.take();
        let console_socket = self.console_socket.take();
        let (streams, process_id) = (self.streams, self.process_id.take());
        let cgroup = self.cgroup_below()?;
        let further = self.further_process(&folder)?;
        let has_terminal = further.process.terminal;
        let exec = Process {
            container: state.id.to_string(),
            id: process_id,
            process: further.document.to_string().into_bytes(),
            cgroup,
            profile: new_profile(global, &folder, &further)?,
        };
        let guest = GuestSocket::of(&global.folder(&state.sandbox)?)?;
        if console_socket.is_some() && !(detach && has_terminal) {
            return Err(Error::ConsoleSocket);
        }
        if !detach {
            let terminal = has_terminal.then(own_terminal).transpose()?;
            let foreground = Foreground {
                exec,
                guest,
                terminal,
            };
            let this = rustix::process::getpid();
            return foreground.run(|| {
                let pidfd = rustix::process::pidfd_open(this, PidfdFlags::empty())
                    .map_err(|errno| io("open a descriptor of this process")(errno.into()))?;
                announce(this.as_raw_pid(), pid_file, pidfd_socket, pidfd.as_fd())
            });
        }
        let window = further.process.console_size.and_then(ConsoleSize::window);
        let streams = match (has_terminal, console_socket) {
            _ if streams => {
                StandardStreams::Given(GivenStreams::inherited(has_terminal).map_err(io("--streams"))?)
            }
            (false, _) => StandardStreams::Inherited,
            (true, None) => return Err(Error::NoConsoleSocket),
            (true, Some(socket)) => StandardStreams::Console(Console::make(&socket, window)?),
        };
        let standin = Detached {
            exec,
            guest,
            streams,
            window,
            cgroup: state.cgroup.open()?,
            network: network_of(&state)?,
        };
        let child = standin.start()?;
        announce(child.pid, pid_file, pidfd_socket, child.pidfd()).inspect_err(|_| {
            // The process goes with its stand-in; one that has ended already is what is wanted.
            let _ = child.signal(libc::SIGKILL);
        })?;
        Ok(Exit::Code(0))
    }

    /// Whether the container can have further processes now.
    fn check(&self, state: &State) -> Result<(), Error> {
        match state.current_status() {
            ContainerStatus::Stopped => Err(Error::ExecStopped),
            ContainerStatus::Creating => Err(Error::NotRunning),
            ContainerStatus::Paused if !self.ignore_paused => Err(Error::ExecPaused),
            _ => Ok(()),
        }
    }

    /// The path of `--cgroup`, which version 1 has by controller.
    fn cgroup_below(&mut self) -> Result<String, Error> {
        match self.cgroup.take() {
            Some(path) if path.contains(':') => Err(Error::CgroupController(path)),
            path => Ok(path.unwrap_or_default()),
        }
    }

    fn further_process(self, folder: &StateFolder) -> Result<FurtherProcess, Error> {
        if let Some(file) = &self.process {
            return Ok(FurtherProcess::load(file)?);
        }
        let user = self.user.as_deref().map(parse_user).transpose()?;
        let changes = Changes {
            args: self.command,
            cwd: self.cwd,
            env: self.env,
            terminal: self.tty,
            user,
            additional_gids: self.additional_gids,
            no_new_privileges: self.no_new_privs.then_some(true),
            capabilities: self.cap,
            apparmor_profile: self.apparmor,
            selinux_label: self.process_label,
        };
        let config: Config = folder.load_config()?;
        Ok(FurtherProcess::change(config.process, changes)?)
    }
}

/// The profile that confines the process, if the guest does not have it yet with the container's.
fn new_profile(
    global: &Global,
    folder: &StateFolder,
    further: &FurtherProcess,
) -> Result<Option<AppArmorProfile>, Error> {
    let Some(name) = further.process.apparmor_profile.as_deref() else {
        return Ok(None);
    };
    let config: Config = folder.load_config()?;
    if config
        .process
        .get("apparmorProfile")
        .is_some_and(|own| own == name)
    {
        return Ok(None);
    }
    let settings = crate::config::Config::load(global.config.as_deref())?;
    Ok(AppArmorProfile::find(&settings, Some(name))?)
}

/// The terminal on standard input, for a process of which the options or the file say that it has one.
fn own_terminal() -> Result<Terminal, Error> {
    if !rustix::termios::isatty(rustix::stdio::stdin()) {
        return Err(ExecError::NotATerminal.into());
    }
    Ok(Terminal::of_stdin()?)
}

/// The network namespace in which the container's stand-in lives.
fn network_of(state: &State) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{}/ns/net", state.monitor.pid);
    let network = File::open(&path).map_err(io(path))?;
    // What was opened may be a later process's, unless the one that is meant still lives.
    match state.monitor.is_alive() {
        true => Ok(network.into()),
        false => Err(Error::ExecStopped),
    }
}

/// Tells the caller of the stand-in, its pid last.
fn announce(
    pid: i32,
    pid_file: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    pidfd: BorrowedFd<'_>,
) -> Result<(), Error> {
    if let Some(socket) = pidfd_socket {
        hand_over("--pidfd-socket", &socket, b"pidfd", pidfd)?;
    }
    if let Some(file) = pid_file {
        write_pid_file(&file, pid)?;
    }
    Ok(())
}

fn parse_user(text: &str) -> Result<UserChange, Error> {
    let wrong = || Error::User(text.to_owned());
    let number = |text: &str| text.parse().map_err(|_| wrong());
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(number(gid)?)),
        None => (text, None),
    };
    Ok(UserChange {
        uid: number(uid)?,
        gid,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::{Command, CommandLine},
        *,
    };

    fn parse(args: &[&str]) -> Exec {
        let line = CommandLine::try_parse_from(["bulkhead", "exec"].iter().chain(args)).expect("valid");
        match line.command {
            Some(Command::Exec(exec)) => exec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let exec = parse(&[
            "-e", "A=1", "c1", "-t", "-u", "1:2", "sh", "-c", "x", "-u", "--cwd",
        ]);
        assert_eq!(exec.id, "c1");
        assert_eq!(exec.command, ["sh", "-c", "x", "-u", "--cwd"]);
        assert!(exec.tty && exec.cwd.is_none());
        assert_eq!(exec.user.as_deref(), Some("1:2"));
    }

    #[test]
    fn callers_options_are_taken() {
        let exec = parse(&[
            "--pid-file",
            "/p",
            "--process",
            "/f",
            "--detach",
            "--tty",
            "--console-socket",
            "/s",
            "c1",
        ]);
        assert!(exec.detach && exec.command.is_empty());
        let exec = parse(&["-g", "1", "-g", "2", "-c", "CAP_KILL", "-d", "c1", "true"]);
        assert_eq!(exec.additional_gids, [1, 2]);
        assert_eq!(exec.cap, ["CAP_KILL"]);
    }

    #[test]
    fn a_user_is_one_or_two_numbers() {
        let user = |uid, gid| Some(UserChange { uid, gid });
        assert_eq!(parse_user("7").ok(), user(7, None));
        assert_eq!(parse_user("7:8").ok(), user(7, Some(8)));
        for text in ["", "bob", "7:", ":8", "7:8:9", "-1", "4294967296"] {
            assert!(parse_user(text).is_err(), "{text}");
        }
    }
}
