//! A container that was created and outlives its creator, as engines have them.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::bulkhead::Invocation;
use super::bundle::Bundle;
use super::{Host, LIMIT, processes};

/// A created container. This process is a subreaper, and so its stand-in's parent, as an engine's monitor is.
pub struct Container<'a> {
    host: &'a Host,
    /// Its identifier.
    pub id: String,
    /// Its stand-in, as the pid file names it.
    pub pid: Pid,
}

impl Host {
    /// `bulkhead create` of the bundle, with an identifier of its own and files for its output.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Container<'_> {
        self.create_as(bundle, &self.new_id())
    }

    /// `bulkhead create` of the bundle as `id`.
    ///
    /// # Panics
    /// It fails, or writes no pid file as it should.
    #[must_use]
    #[track_caller]
    pub fn create_as(&self, bundle: &Bundle, id: &str) -> Container<'_> {
        self.create_by(self.bulkhead().arg("create"), bundle, id)
    }

    /// A container by a command line that ends before the options for the bundle and the pid file.
    ///
    /// # Panics
    /// It fails, or writes no pid file as it should.
    #[must_use]
    #[track_caller]
    pub fn create_by(&self, creation: Invocation, bundle: &Bundle, id: &str) -> Container<'_> {
        let pid_file = self.folder().join(format!("{id}.pid"));
        let creation = creation.arg("--bundle").arg(bundle.folder());
        let creation = creation.arg("--pid-file").arg(&pid_file).arg(id);
        let status = self.run_with_files(creation, id);
        let container = Container {
            host: self,
            id: id.to_owned(),
            pid: Pid::from_raw(0),
        };
        assert!(status.success(), "{status}: {}", container.stderr());
        let pid = fs::read_to_string(&pid_file).expect("a pid file");
        let pid = Pid::from_raw(pid.parse().expect("a number alone"));
        Container { pid, ..container }
    }

    /// Runs a command to its end, with nothing to read and with files for its output, which what it leaves behind goes on
    /// writing to: `NAME.out` and `NAME.err`.
    fn run_with_files(&self, mut invocation: Invocation, name: &str) -> ExitStatus {
        let open = |kind: &str| {
            let path = self.folder().join(format!("{name}.{kind}"));
            let mut options = File::options();
            options
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .expect("a file")
        };
        let command = invocation.command();
        command
            .stdin(Stdio::null())
            .stdout(open("out"))
            .stderr(open("err"));
        command.status().expect("bulkhead")
    }
}

impl Host {
    /// A container of the bundle whose program runs.
    ///
    /// # Panics
    /// It cannot be created or started.
    #[must_use]
    #[track_caller]
    pub fn started(&self, bundle: &Bundle) -> Container<'_> {
        let container = self.create(bundle);
        container.start();
        container
    }
}

impl Container<'_> {
    /// `bulkhead exec OPTIONS ID COMMAND`.
    #[must_use]
    pub fn exec(&self, options: &[&str], command: &[&str]) -> Invocation {
        let exec = self.host.bulkhead().arg("exec").args(options);
        exec.arg(&self.id).args(command)
    }

    /// `bulkhead exec --detach` of a shell script, with a pid file and with files for its output. Gives its stand-in, which
    /// has become a child of this process.
    ///
    /// # Panics
    /// It fails, or writes no pid file as it should.
    #[must_use]
    #[track_caller]
    pub fn exec_detached(&self, script: &str) -> Pid {
        let pid_file = self.file("exec-pid");
        let options = ["--detach", "--pid-file", pid_file.to_str().expect("a text")];
        let exec = self.exec(&options, &["sh", "-c", script]);
        let status = self.host.run_with_files(exec, &self.id);
        assert!(status.success(), "{status}: {}", self.stderr());
        let pid = fs::read_to_string(&pid_file).expect("a pid file");
        fs::remove_file(&pid_file).expect("a pid file");
        Pid::from_raw(pid.parse().expect("a number alone"))
    }

    /// What a shell script in it prints.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.exec(&[], &["sh", "-c", script]).output().success()
    }

    /// Waits until its program, or another one that has its output, has written `text` to stdout.
    ///
    /// # Panics
    /// It takes longer than [`LIMIT`].
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.stdout().contains(text) {
            assert!(
                Instant::now() < deadline,
                "{text:?} never came: {}",
                self.stdout()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// `bulkhead delete --force` of it, whatever its state. Its stand-in has been waited for then.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn discard(self) {
        assert_eq!(self.command("delete").arg("--force").output().success(), "");
        assert!(processes::wait_until_gone(self.pid, LIMIT));
    }

    /// `bulkhead COMMAND ID`.
    #[must_use]
    pub fn command(&self, command: &str) -> Invocation {
        self.host.bulkhead().arg(command).arg(&self.id)
    }

    /// Starts its program.
    ///
    /// # Panics
    /// It cannot be.
    #[track_caller]
    pub fn start(&self) {
        assert_eq!(self.command("start").output().success(), "");
    }

    /// What `bulkhead state` says.
    ///
    /// # Panics
    /// It fails, or says no JSON.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> Value {
        let state = self.command("state").output().success();
        serde_json::from_str(&state).expect("JSON")
    }

    /// Its status.
    ///
    /// # Panics
    /// As [`Container::state`].
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a text").to_owned()
    }

    /// Sends a signal to its first process.
    ///
    /// # Panics
    /// It cannot be sent.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        assert_eq!(self.command("kill").arg(signal).output().success(), "");
    }

    /// Waits for its stand-in's end, as an engine's monitor does.
    ///
    /// # Panics
    /// It takes longer than [`LIMIT`].
    #[must_use]
    #[track_caller]
    pub fn wait(&self) -> WaitStatus {
        self.wait_for_standin(self.pid)
    }

    /// Waits for the end of its stand-in, or of that of a program executed in it.
    ///
    /// # Panics
    /// It takes longer than [`LIMIT`].
    #[must_use]
    #[track_caller]
    pub fn wait_for_standin(&self, standin: Pid) -> WaitStatus {
        assert!(
            processes::wait_for_end(standin, LIMIT),
            "{standin} of {} has not ended: {}",
            self.id,
            self.stderr()
        );
        waitpid(standin, None).expect("an orphan is this process's child")
    }

    /// `bulkhead delete` of it.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn delete(&self) {
        assert_eq!(self.command("delete").output().success(), "");
    }

    /// What its program has written to stdout until now.
    ///
    /// # Panics
    /// The file cannot be read.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.written("out")
    }

    /// What its program, and whoever else had it, has written to stderr until now.
    ///
    /// # Panics
    /// The file cannot be read.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.written("err")
    }

    fn written(&self, kind: &str) -> String {
        fs::read_to_string(self.file(kind)).expect("its output")
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.host.folder().join(format!("{}.{kind}", self.id))
    }
}
