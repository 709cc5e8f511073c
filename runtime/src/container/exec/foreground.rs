//! The process that the caller started is the stand-in.

use super::{Exec, ExecError, event_loop};
use crate::{
    container::{Terminal, monitor::Signals},
    sandbox::{Exit, GuestSocket},
};

/// A stand-in that keeps the caller's terminal and streams.
pub struct Foreground {
    /// What is to be run.
    pub exec: Exec,
    /// Where.
    pub guest: GuestSocket,
    /// The caller's terminal, if the process is to have one.
    pub terminal: Option<Terminal>,
}

impl Foreground {
    /// Runs the process until its end. The caller's terminal is then as it was. `started` is done when the program has been
    /// executed; when it fails the process is killed.
    ///
    /// # Errors
    /// Why the program was not executed, or how it was lost.
    pub fn run<E: From<ExecError>>(self, started: impl FnOnce() -> Result<(), E>) -> Result<Exit, E> {
        let Self {
            exec,
            guest,
            terminal,
        } = self;
        let result = event_loop()?.block_on(carry(exec, &guest, terminal.as_ref(), started));
        if let Some(terminal) = &terminal {
            terminal.restore();
        }
        result
    }
}

async fn carry<E: From<ExecError>>(
    exec: Exec,
    guest: &GuestSocket,
    terminal: Option<&Terminal>,
    started: impl FnOnce() -> Result<(), E>,
) -> Result<Exit, E> {
    let signals = Signals::take().map_err(ExecError::system("take signals"))?;
    let window = || terminal.and_then(Terminal::size);
    // A program must not find the terminal in the caller's settings, where Ctrl-C is not its own.
    let ready = || terminal.map_or(Ok(()), Terminal::make_raw);
    let first_size = terminal.map(|terminal| terminal.size().unwrap_or(crate::container::UNKNOWN_SIZE));
    let running = exec.start(guest, first_size, ready).await?;
    started()?;
    let ended = running.wait(&signals, window).await?;
    let exit = ended.exit;
    tokio::select! {
        biased;
        drained = ended.drain() => drained?,
        // The program has ended; who interrupts now means the copying.
        _ = signals.interruption() => {}
    }
    Ok(exit)
}
