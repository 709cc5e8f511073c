//! Running a hook of config.json, which is the same on the host and in the guest.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, SeekFrom, memfd_create, seek},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use serde::Deserialize;

/// How much of a hook's last output is kept, in bytes.
const KEPT: usize = 1024;

/// The hooks of config.json, each list in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "they are the names of the runtime specification")]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// The names of the lists, as in config.json.
    pub const NAMES: &[&str] = &[
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];

    /// The lists with their names.
    pub fn lists(&self) -> impl Iterator<Item = (&'static str, &[Hook])> {
        let lists = [
            &self.prestart,
            &self.create_runtime,
            &self.create_container,
            &self.start_container,
            &self.poststart,
            &self.poststop,
        ];
        Self::NAMES.iter().copied().zip(lists.map(Vec::as_slice))
    }
}

/// A program that is run at a point of a container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// The program, an absolute path.
    pub path: String,
    /// Its arguments, its name first; none: the path alone.
    pub args: Vec<String>,
    /// Its whole environment, as `NAME=value`.
    pub env: Vec<String>,
    /// After how many seconds it is killed; more than zero.
    pub timeout: Option<i64>,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be run.
    #[error("hook {path}: {source}")]
    Run {
        /// The program.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("hook {path}: killed after its timeout of {seconds} s")]
    Timeout {
        /// The program.
        path: String,
        /// Its time.
        seconds: i64,
    },
    /// It was killed because it is not wanted any more.
    #[error("hook {path}: killed by an interruption")]
    Interrupted {
        /// The program.
        path: String,
    },
    /// It said that it failed, or was killed.
    #[error("hook {path}: {}{}", describe(*status), said(output))]
    Failed {
        /// The program.
        path: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    }
}

fn said(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(": {output}")
    }
}

impl Hook {
    /// What is wrong with it, if anything: the field and the problem.
    ///
    /// # Errors
    /// The first field that breaks a rule of the specification.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let texts = [&self.path].into_iter().chain(&self.args).chain(&self.env);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(("path", "has a NUL byte in it, or in args or env".to_owned()));
        }
        if !self.path.starts_with('/') {
            return Err(("path", format!("{:?} is not an absolute path", self.path)));
        }
        if let Some(entry) = self.env.iter().find(|entry| variable(entry).is_none()) {
            return Err(("env", format!("{entry:?} is not NAME=value")));
        }
        if let Some(seconds) = self.timeout.filter(|seconds| *seconds <= 0) {
            return Err(("timeout", format!("{seconds} is not greater than zero")));
        }
        Ok(())
    }

    /// Runs it with the state as its standard input, and waits for its end, or until `interruption` is readable.
    ///
    /// # Errors
    /// It cannot be run, fails, or has been killed: it takes longer than its timeout, or was interrupted.
    pub fn run(&self, state: &[u8], interruption: Option<BorrowedFd<'_>>) -> Result<(), HookError> {
        let broken = |source| HookError::Run {
            path: self.path.clone(),
            source,
        };
        let (mut child, output) = self.spawn(state).map_err(broken)?;
        let waited = self.wait(&child, output, interruption);
        if !matches!(waited, Ok(Waited::Ended(_))) {
            let _ = kill_process_group(pid(&child), Signal::KILL);
        }
        let status = child.wait().map_err(broken)?;
        match waited.map_err(broken)? {
            Waited::TimedOut => Err(HookError::Timeout {
                path: self.path.clone(),
                seconds: self.timeout.unwrap_or_default(),
            }),
            Waited::Interrupted => Err(HookError::Interrupted {
                path: self.path.clone(),
            }),
            Waited::Ended(_) if status.success() => Ok(()),
            Waited::Ended(output) => Err(HookError::Failed {
                path: self.path.clone(),
                status,
                output: String::from_utf8_lossy(&output).trim().to_owned(),
            }),
        }
    }

    fn spawn(&self, state: &[u8]) -> io::Result<(Child, OwnedFd)> {
        let (output, its_output) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A program expects to wait for room.
        rustix::io::ioctl_fionbio(&its_output, false)?;
        let mut command = Command::new(&self.path);
        if let [name, args @ ..] = self.args.as_slice() {
            command.arg0(name).args(args);
        }
        command
            .env_clear()
            .envs(self.env.iter().filter_map(|entry| variable(entry)))
            .stdin(Stdio::from(file_of(state)?))
            .stdout(Stdio::from(its_output.try_clone()?))
            .stderr(Stdio::from(its_output))
            .process_group(0);
        Ok((command.spawn()?, output))
    }

    /// Waits for its end. What its children write later, if it has left any, is nobody's.
    fn wait(
        &self,
        child: &Child,
        output: OwnedFd,
        interruption: Option<BorrowedFd<'_>>,
    ) -> io::Result<Waited> {
        let ended = pidfd_open(pid(child), PidfdFlags::empty())?;
        let allowed = self.timeout.and_then(|seconds| u64::try_from(seconds).ok());
        let deadline = allowed.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        let mut output = std::fs::File::from(output);
        let mut kept = Vec::new();
        let mut open = true;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut sources = [
                PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(interruption.unwrap_or(ended.as_fd()), PollFlags::IN),
                PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN),
            ];
            let watched = if open { 3 } else { 2 };
            match poll(&mut sources[..watched], left.as_ref()) {
                Ok(0) => return Ok(Waited::TimedOut),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let [has_ended, is_interrupted, _] = sources.map(|source| !source.revents().is_empty());
            open = open && keep_tail(&mut output, &mut kept)?;
            if has_ended {
                return Ok(Waited::Ended(kept));
            }
            if is_interrupted {
                return Ok(Waited::Interrupted);
            }
        }
    }
}

/// What waiting for a hook came to.
enum Waited {
    /// It has ended; the end of its output.
    Ended(Vec<u8>),
    /// Its time was up before.
    TimedOut,
    /// It is not wanted any more.
    Interrupted,
}

/// Reads what is there; false at the end of file.
fn keep_tail(output: &mut std::fs::File, kept: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; KEPT];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => {
                kept.extend_from_slice(buffer.get(..length).unwrap_or_default());
                kept.drain(..kept.len().saturating_sub(KEPT));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// A file without a name, to be read from its beginning: unlike a pipe it holds any state, read or not.
fn file_of(bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::Write;
    let mut file = std::fs::File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}

fn variable(entry: &str) -> Option<(&str, &str)> {
    entry.split_once('=').filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, thread};

    use super::*;

    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".to_owned(),
            args: ["hook", "-c", script, "zero", "one"].map(str::to_owned).to_vec(),
            env: vec!["A=b=c".to_owned(), "PATH=/usr/bin:/bin".to_owned()],
            timeout: None,
        }
    }

    fn error(hook: &Hook) -> String {
        hook.run(b"{}", None).expect_err("it fails").to_string()
    }

    #[test]
    fn it_gets_the_state_its_arguments_and_its_environment_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("said");
        let state = "x".repeat(1 << 20);
        let script = format!("{{ env | sort; echo $1; wc -c; }} > {}", file.display());
        shell(&script).run(state.as_bytes(), None).expect("it succeeds");
        let said = fs::read_to_string(file).expect("the file");
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with('_')).collect();
        assert_eq!(lines[0], "A=b=c");
        assert!(
            lines.iter().any(|line| line.starts_with("PATH=/usr/bin")),
            "{said}"
        );
        assert!(!said.contains("CARGO"), "{said}");
        assert_eq!(lines[lines.len() - 2..], ["one", "1048576"]);
    }

    #[test]
    fn without_arguments_it_is_called_by_its_path() {
        let hook = Hook {
            path: "/bin/true".to_owned(),
            ..Hook::default()
        };
        hook.run(b"{}", None).expect("it succeeds");
    }

    #[test]
    fn a_failure_has_the_status_and_the_last_words() {
        assert_eq!(
            error(&shell("echo no luck >&2; exit 7")),
            "hook /bin/sh: exit status 7: no luck"
        );
        assert_eq!(error(&shell("kill -9 $$")), "hook /bin/sh: killed by signal 9");
        let long = error(&shell(
            "head -c 100000 /dev/zero | tr '\\0' x; echo the end; exit 1",
        ));
        assert!(long.ends_with("xthe end") && long.len() < 2000, "{long}");
        let missing = Hook {
            path: "/no/such/hook".to_owned(),
            ..Hook::default()
        };
        assert!(error(&missing).starts_with("hook /no/such/hook: No such file"));
    }

    #[test]
    fn its_time_is_limited_and_its_children_end_with_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("child");
        let mut hook = shell(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
        hook.timeout = Some(1);
        assert_eq!(error(&hook), "hook /bin/sh: killed after its timeout of 1 s");
        let child = fs::read_to_string(file).expect("the file");
        let running = || {
            fs::read_to_string(Path::new("/proc").join(child.trim()).join("stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        while running() {
            thread::yield_now();
        }
    }

    #[test]
    fn it_ends_with_an_interruption() {
        let (interruption, other) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        drop(other);
        let hook = shell("sleep 1000");
        let error = hook.run(b"{}", Some(interruption.as_fd())).expect_err("killed");
        assert_eq!(error.to_string(), "hook /bin/sh: killed by an interruption");
    }

    #[test]
    fn what_it_leaves_behind_is_not_waited_for() {
        let begun = Instant::now();
        shell("sleep 20 & exit 0").run(b"{}", None).expect("it succeeds");
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |change: fn(&mut Hook)| {
            let mut hook = shell("true");
            change(&mut hook);
            hook.check().expect_err("it is wrong").0
        };
        assert_eq!(wrong(|hook| hook.path = "bin/sh".to_owned()), "path");
        assert_eq!(wrong(|hook| hook.path = String::new()), "path");
        assert_eq!(wrong(|hook| hook.args.push("\0".to_owned())), "path");
        assert_eq!(wrong(|hook| hook.env.push("novalue".to_owned())), "env");
        assert_eq!(wrong(|hook| hook.env.push("=x".to_owned())), "env");
        assert_eq!(wrong(|hook| hook.timeout = Some(0)), "timeout");
        shell("true").check().expect("it is right");
    }
}
