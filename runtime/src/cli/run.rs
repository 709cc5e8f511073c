//! `bulkhead run`

use std::process::ExitCode;

use clap::Args;

use super::{Error, Global, Status, creation::CreationOptions, io};
use crate::{
    container::{
        CreationError, RunEnd, Standin,
        control::{Request, ask},
        dispose_of,
        hooks::Point,
    },
    sandbox::{Ended, Exit, Status as ContainerStatus},
};

/// Create a container, start its program, and exit as that does
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    options: CreationOptions,
    /// Return when the program runs
    #[arg(short, long)]
    detach: bool,
    /// Leave the stopped container for `delete`
    #[arg(long)]
    keep: bool,
    /// Accepted for compatibility; the container's processes are in its guest
    #[arg(long)]
    no_subreaper: bool,
}

impl Run {
    pub fn execute(self, global: &Global) -> Status {
        let standin = match self.options.create(global, self.detach) {
            Err(Error::Creation(CreationError::Interrupted(signal))) => {
                return Ok(exit_code(Exit::Signal(signal)));
            }
            created => created?,
        };
        if self.detach {
            let started = ask(&standin.folder, &Request::Start {})
                .map_err(Error::from)
                .and_then(|()| Ok(standin.run_hooks(Point::Poststart)?));
            if started.is_err() {
                standin.discard();
            }
            return started.map(|()| ExitCode::SUCCESS);
        }
        self.attend(standin)
    }

    fn attend(&self, mut standin: Standin) -> Status {
        let ended = standin.attend();
        let state = standin.folder.load();
        let was_stopped = matches!(&state, Ok(Some(state)) if state.status == ContainerStatus::Stopped);
        if !(self.keep && was_stopped) {
            dispose_of(&standin.folder, &standin.place);
        }
        match ended.map_err(io("wait for the monitor"))? {
            RunEnd::Failed => Ok(ExitCode::FAILURE),
            RunEnd::Ended(Ended::Exited(code)) => Ok(exit_code(Exit::Code(code))),
            // It was killed itself, unless it has said that the workload was.
            RunEnd::Ended(Ended::Killed(signal)) if !was_stopped => Err(Error::MonitorKilled(signal)),
            RunEnd::Ended(Ended::Killed(signal)) => Ok(exit_code(Exit::Signal(signal))),
        }
    }
}

fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from(u8::try_from(exit.code()).unwrap_or(u8::MAX))
}
