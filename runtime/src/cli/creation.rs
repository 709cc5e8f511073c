//! What `create` and `run` have in common.

use std::{
    os::fd::AsFd,
    path::{self, PathBuf},
};

use clap::Args;

use super::{Error, Global};
use crate::{
    config::Config,
    container::{
        Console, Creation, GivenStreams, Presence, StandardStreams, Standin, Terminal, hand_over,
        write_pid_file,
    },
    oci::Bundle,
    sandbox::Id,
};

/// The container to be created, and how its caller learns of it.
#[derive(Debug, Args)]
pub struct CreationOptions {
    /// Folder with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Unix socket that gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that gets a pidfd of the container's stand-in
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// File for the pid of the container's stand-in
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Accepted for compatibility; a guest's root is never that of its host
    #[arg(long)]
    no_pivot: bool,
    /// Accepted for compatibility; a guest's keyrings are never those of its host
    #[arg(long)]
    no_new_keyring: bool,
    /// Only 0: a virtual machine cannot be given descriptors of its host
    #[arg(long, value_name = "N", default_value_t)]
    preserve_fds: u32,
    /// Descriptors 3, 4 and 5 are the container's standard streams, and carry its terminal if it has one
    #[arg(long, hide = true)]
    streams: bool,
    /// The container's name, unique on this host
    #[arg(value_name = "ID")]
    id: String,
}

impl CreationOptions {
    /// Creates the container.
    pub fn create(&self, global: &Global, detach: bool) -> Result<Standin, Error> {
        if self.preserve_fds > 0 {
            return Err(Error::PreserveFds);
        }
        let creation = Creation {
            id: Id::try_from(self.id.clone())?,
            driver: global.driver(),
            config: Config::load(global.config.as_deref())?,
            bundle: Bundle::load(&self.bundle)?,
            root: path::absolute(&global.root).map_err(super::io("--root"))?,
        };
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let presence = self.presence(&creation.bundle, detach)?;
        let standin = creation.carry_out(presence)?;
        match self.announce(&standin) {
            Ok(()) => Ok(standin),
            Err(error) => {
                standin.discard();
                Err(error)
            }
        }
    }

    fn presence(&self, bundle: &Bundle, detach: bool) -> Result<Presence, Error> {
        let process = bundle.spec.process.as_ref();
        let wants_terminal = process.is_some_and(|process| process.terminal);
        if self.streams && detach {
            let given = GivenStreams::inherited(wants_terminal).map_err(super::io("--streams"))?;
            return Ok(Presence::Goes {
                streams: StandardStreams::Given(given),
            });
        }
        match (&self.console_socket, wants_terminal, detach) {
            (None, true, true) => Err(Error::NoConsoleSocket),
            (Some(_), _, false) | (Some(_), false, _) => Err(Error::ConsoleSocket),
            (Some(socket), true, true) => {
                let size = process
                    .and_then(|process| process.console_size)
                    .and_then(crate::oci::ConsoleSize::window);
                Ok(Presence::Goes {
                    streams: StandardStreams::Console(Console::make(socket, size)?),
                })
            }
            (None, false, true) => Ok(Presence::Goes {
                streams: StandardStreams::Inherited,
            }),
            (None, wanted, false) => Ok(Presence::Stays {
                terminal: wanted.then(Terminal::of_stdin).transpose()?,
            }),
        }
    }

    /// Tells the caller of the stand-in, the pid file last.
    fn announce(&self, standin: &Standin) -> Result<(), Error> {
        if let Some(socket) = &self.pidfd_socket {
            hand_over(
                "--pidfd-socket",
                socket,
                b"pidfd",
                standin.monitor.pidfd().as_fd(),
            )?;
        }
        if let Some(file) = &self.pid_file {
            write_pid_file(file, standin.monitor.pid)?;
        }
        Ok(())
    }
}
