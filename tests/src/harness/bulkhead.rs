//! Running `bulkhead`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::collect::Collected;
use super::poor_kvm::PoorKvm;
use super::{LIMIT, Systemd, old_kernel, processes};
use crate::l1::pty::Terminal;
use crate::testbed::channel::WindowSize;

/// A command line of `bulkhead`, not run yet.
pub struct Invocation {
    command: Command,
}

impl Invocation {
    /// Of a command that is made elsewhere.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self { command }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// The command itself, for what is set up rarely.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it to its end, with nothing to read.
    ///
    /// # Panics
    /// It takes longer than [`LIMIT`].
    #[must_use]
    pub fn output(mut self) -> Output {
        self.command.stdin(Stdio::null());
        self.start().wait()
    }

    /// Runs it in a mount namespace of its own that the shell script `setup` changes first.
    #[must_use]
    pub fn in_mount_namespace(self, setup: &str) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--", "sh", "-ec"])
            .arg(format!("{setup}\nexec \"$0\" \"$@\""))
            .arg(self.command.get_program())
            .args(self.command.get_args());
        Self { command }
    }

    /// Runs it where `systemd` is process 1, with the variables that it has been given. It is to be waited for: what is
    /// dropped while it runs leaves its process behind.
    #[must_use]
    pub fn in_host_of(self, systemd: &Systemd) -> Self {
        let mut command = systemd.command();
        let variables = self.command.get_envs();
        command
            .envs(variables.filter_map(|(name, value)| Some((name, value?))))
            .arg(self.command.get_program())
            .args(self.command.get_args());
        Self { command }
    }

    /// Runs it to its end with a KVM that cannot run stock guests.
    ///
    /// # Panics
    /// This process is not root, or it takes longer than [`LIMIT`].
    #[must_use]
    pub fn output_with_poor_kvm(mut self) -> Output {
        let kvm = PoorKvm::install(&mut self.command).expect("a socket pair");
        self.command.stdin(Stdio::null());
        let running = self.start();
        kvm.serve().expect("the seccomp filter's listener");
        running.wait()
    }

    /// Has it run on a kernel that knows no seccomp filters; needs root.
    #[must_use]
    pub fn without_filters(mut self) -> Self {
        old_kernel::without_filters(&mut self.command);
        self
    }

    /// Starts it, with pipes.
    #[must_use]
    pub fn spawn(mut self) -> Running {
        self.command.stdin(Stdio::piped());
        self.start()
    }

    /// Starts it as the leader of a session on a new terminal.
    ///
    /// # Panics
    /// There is no terminal to be had.
    #[must_use]
    pub fn spawn_on_terminal(mut self, size: WindowSize) -> Running {
        let terminal = Terminal::attach(&mut self.command, size).expect("a terminal");
        let child = self.spawn_child();
        let master = || terminal.handle().expect("a descriptor");
        Running {
            stdin: Some(Box::new(master())),
            stdout: Collected::from_reader(master()),
            stderr: Collected::from_reader(std::io::empty()),
            terminal: Some(terminal),
            child,
            waited: false,
        }
    }

    /// Starts it with `stdout` for its output. What it writes there is not collected.
    #[must_use]
    pub fn spawn_with_stdout(mut self, stdout: impl Into<Stdio>) -> Running {
        self.command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        self.launch()
    }

    fn start(mut self) -> Running {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.launch()
    }

    fn launch(mut self) -> Running {
        let mut child = self.spawn_child();
        let collect = |reader: Option<Box<dyn Read + Send>>| {
            Collected::from_reader(reader.unwrap_or_else(|| Box::new(std::io::empty())))
        };
        Running {
            stdin: child
                .stdin
                .take()
                .map(|stdin| Box::new(stdin) as Box<dyn Write + Send + Sync>),
            stdout: collect(child.stdout.take().map(|pipe| Box::new(pipe) as _)),
            stderr: collect(child.stderr.take().map(|pipe| Box::new(pipe) as _)),
            terminal: None,
            child,
            waited: false,
        }
    }

    fn spawn_child(&mut self) -> Child {
        self.command
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.command))
    }
}

/// A `bulkhead` that was started.
pub struct Running {
    /// Its stdin; take it to close it.
    pub stdin: Option<Box<dyn Write + Send + Sync>>,
    stdout: Collected,
    stderr: Collected,
    terminal: Option<Terminal>,
    child: Child,
    waited: bool,
}

impl Running {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Its VMM's process.
    #[must_use]
    pub fn vmm(&self) -> Pid {
        processes::descendant_named(self.pid(), "bulkhead-vmm")
    }

    /// Waits until `text` is in stdout, or on the terminal, and gives everything so far.
    ///
    /// # Panics
    /// The output ends without it, or it takes longer than [`LIMIT`].
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        let contains = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        match self.stdout.wait(contains) {
            Some(bytes) if contains(&bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            ended => panic!(
                "{text:?} {}\nstdout:\n{}\nstderr:\n{}",
                if ended.is_some() {
                    "never came"
                } else {
                    "took too long"
                },
                self.stdout.so_far(),
                self.stderr.so_far()
            ),
        }
    }

    /// What it wrote to stdout, or on the terminal, up to now.
    #[must_use]
    pub fn output_so_far(&self) -> String {
        self.stdout.so_far()
    }

    /// Writes to stdin, or types on the terminal.
    ///
    /// # Panics
    /// Nobody reads it.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is not closed");
        stdin.write_all(text.as_bytes()).expect("somebody reads stdin");
        stdin.flush().expect("somebody reads stdin");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// It has ended.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("bulkhead is alive");
    }

    /// Gives its terminal another size.
    ///
    /// # Panics
    /// It has no terminal.
    pub fn resize(&self, size: WindowSize) {
        self.terminal().resize(size);
    }

    /// Another handle on its terminal's master.
    ///
    /// # Panics
    /// It has no terminal.
    #[must_use]
    pub fn terminal_handle(&self) -> File {
        self.terminal().handle().expect("a descriptor")
    }

    fn terminal(&self) -> &Terminal {
        self.terminal.as_ref().expect("it runs on a terminal")
    }

    /// Waits for its end and the end of its output. Its stdin stays open meanwhile, unless it was taken.
    ///
    /// # Panics
    /// It takes longer than [`LIMIT`].
    #[track_caller]
    pub fn wait(mut self) -> Output {
        if !processes::wait_for_end(self.pid(), LIMIT) {
            panic!(
                "bulkhead has not ended after {LIMIT:?}\nstdout:\n{}\nstderr:\n{}",
                self.stdout.so_far(),
                self.stderr.so_far()
            );
        }
        let status = self.child.wait().expect("bulkhead is our child");
        self.waited = true;
        let stdout = self.stdout.wait_for_end();
        let stderr = self.stderr.wait_for_end();
        Output {
            status,
            stdout: stdout.expect("somebody still holds stdout open"),
            stderr: stderr.expect("somebody still holds stderr open"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.waited {
            // It may have ended by itself: that is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a `bulkhead` ended and what it wrote.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to stdout; on a terminal, everything.
    pub stdout: Vec<u8>,
    /// Everything it wrote to stderr.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Its stdout as text.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its stderr as text.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Checks that the exit code is `code`.
    ///
    /// # Panics
    /// It is another one, or a signal ended it.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }

    /// The stdout of a run that succeeded and wrote nothing to stderr.
    ///
    /// # Panics
    /// It did not, or did.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        assert_eq!(self.stderr(), "", "{self:?}");
        self.stdout()
    }

    /// The one line on stderr of a run that was refused: exit code 1, nothing on stdout.
    ///
    /// # Panics
    /// It was not.
    #[track_caller]
    pub fn refusal(self) -> String {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        assert_eq!(self.stdout(), "", "{self:?}");
        let stderr = self.stderr();
        assert_eq!(stderr.lines().count(), 1, "{self:?}");
        stderr.trim_end().to_owned()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 4000;
        let head = |text: String| text.chars().take(SHOWN).collect::<String>();
        write!(
            f,
            "{}\nstdout ({} bytes):\n{}\nstderr ({} bytes):\n{}",
            self.status,
            self.stdout.len(),
            head(self.stdout()),
            self.stderr.len(),
            head(self.stderr())
        )
    }
}
