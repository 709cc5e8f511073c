//! `bulkhead run`

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use super::{Error, Global, Status, io};
use crate::{
    config::Config,
    container::{Foreground, Keyboard, Monitor, Terminal, clean_up},
    oci::Bundle,
    sandbox::{Cgroup, Ended, Fork, Id, StateFolder, cgroup_mount_point, fork},
    signals,
};

/// Run a container in the foreground, and exit as its program does
#[derive(Debug, Args)]
pub struct Run {
    /// Folder with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// The container's name, unique on this host
    #[arg(value_name = "ID")]
    id: String,
}

impl Run {
    pub fn execute(self, global: &Global) -> Status {
        let id = Id::try_from(self.id)?;
        let config = Config::load(global.config.as_deref())?;
        let bundle = Bundle::load(&self.bundle)?;
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let wants_terminal = bundle
            .spec
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        let terminal = wants_terminal.then(Terminal::of_stdin).transpose()?;
        let cgroup = Cgroup::place(&cgroup_mount_point()?, &id, &bundle.spec.linux.cgroups_path);

        // From here on there is something to remove, which a signal is not to keep from happening.
        let signals = signals::take().map_err(io("take signals"))?;
        let folder = StateFolder::create(&global.root, &id)?;
        let cgroup_handle = match cgroup.create() {
            Ok(handle) => handle,
            Err(error) => {
                folder.remove()?;
                return Err(error.into());
            }
        };
        let ended = Prepared {
            config,
            bundle,
            terminal,
            folder: folder.clone(),
            cgroup: cgroup.clone(),
            signals,
        }
        .carry_out(cgroup_handle);
        clean_up(&folder, &cgroup);
        match ended? {
            Ended::Exited(status) => Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))),
            Ended::Killed(signal) => Err(Error::MonitorKilled(signal)),
        }
    }
}

/// What has been found good and made.
struct Prepared {
    config: Config,
    bundle: Bundle,
    terminal: Option<Terminal>,
    folder: StateFolder,
    cgroup: Cgroup,
    signals: OwnedFd,
}

impl Prepared {
    /// Has a monitor run the container, and waits for its end.
    fn carry_out(self, cgroup_handle: OwnedFd) -> Result<Ended, Error> {
        let (channel, monitor_channel) = UnixStream::pair().map_err(io("make a socket pair"))?;
        let (keyboard, keys) = Keyboard::of_stdin().map_err(io("make a pipe"))?.unzip();
        match fork(cgroup_handle.as_fd()).map_err(io("start the monitor"))? {
            Fork::Parent(monitor) => {
                drop((monitor_channel, keys));
                let foreground = Foreground {
                    monitor,
                    signals: self.signals,
                    channel,
                    terminal: self.terminal,
                    keyboard,
                };
                foreground.wait().map_err(io("wait for the monitor"))
            }
            Fork::Child => {
                // Their far ends are to notice when the caller's process has gone.
                drop((channel, keyboard));
                let Self {
                    config,
                    bundle,
                    terminal,
                    folder,
                    cgroup,
                    signals,
                } = self;
                // The monitor has its own.
                drop(signals);
                let channel = monitor_channel;
                let monitor = Monitor {
                    config,
                    bundle,
                    folder,
                    cgroup,
                    cgroup_handle,
                    keys,
                    channel,
                    terminal,
                };
                std::process::exit(monitor.run());
            }
        }
    }
}
