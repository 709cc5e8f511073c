//! Ending a command together with everything it started in its session.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every process of session `leader`, and `leader` itself. A process that left the session is not found.
pub fn kill_session(leader: Pid) {
    for pid in members(leader) {
        // It may have ended meanwhile: that is what is wanted.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

fn members(leader: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return vec![leader];
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| *pid == leader || session_of(*pid) == Some(leader))
        .collect()
}

/// Field 6 of /proc/PID/stat (proc_pid_stat(5)); the name in field 2 may hold spaces and parentheses.
fn session_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(3)?.parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    use super::*;

    #[test]
    fn the_whole_session_dies() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & set -m 2>/dev/null; sleep 1000 & wait"]);
        // SAFETY: setsid(2) is async-signal-safe.
        unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
        let mut child = command.spawn().unwrap();
        let leader = Pid::from_raw(child.id().cast_signed());
        while members(leader).len() < 3 {
            std::thread::yield_now();
        }
        kill_session(leader);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        while !members(leader).is_empty() {
            std::thread::yield_now();
        }
    }
}
