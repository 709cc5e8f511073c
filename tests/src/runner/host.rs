//! Running one test on this machine.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::session::kill_session;

/// How a command ended on the host.
pub enum Ended {
    /// By itself.
    Exit(ExitStatus),
    /// Its session was killed.
    TimedOut,
}

/// Runs `command` in a session of its own, which is killed after `limit`; `output` gets what it prints.
pub fn run(command: &mut Command, limit: Duration, output: &mut Vec<u8>) -> io::Result<Ended> {
    let (mut reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    // SAFETY: setsid(2) and prctl(2) are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(set_pdeathsig(Signal::SIGKILL)?)
        });
    }
    let mut child = command.spawn()?;
    // The command keeps the pipe's write end open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let leader = Pid::from_raw(child.id().cast_signed());
    let reading = thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    let ended = wait(&mut child, leader, limit);
    // What the test left in its session would keep the pipe open.
    kill_session(leader);
    if let Ok(Ok(mut all)) = reading.join() {
        output.append(&mut all);
    }
    ended
}

fn wait(child: &mut Child, leader: Pid, limit: Duration) -> io::Result<Ended> {
    let (done, timer) = channel::<()>();
    let (timed_out, was_timed_out) = channel();
    let killer = thread::spawn(move || {
        if timer.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            kill_session(leader);
            let _ = timed_out.send(());
        }
    });
    let status = child.wait();
    drop(done);
    let _ = killer.join();
    Ok(if was_timed_out.try_recv().is_ok() {
        Ended::TimedOut
    } else {
        Ended::Exit(status?)
    })
}
