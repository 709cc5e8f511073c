//! Network namespaces for tests.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A network namespace with a name, which goes at the end.
pub struct Namespace(String);

impl Namespace {
    /// A new one, with its loopback interface up.
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("test-{}-{number}", std::process::id()));
        run(Command::new("ip").args(["netns", "add", &namespace.0]));
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        format!("/run/netns/{}", self.0).into()
    }

    /// `ip` in it: a command a line.
    pub fn ip(&self, commands: &str) -> String {
        self.each("ip", commands)
    }

    /// `tc` in it.
    pub fn tc(&self, command: &str) -> String {
        self.each("tc", command)
    }

    fn each(&self, program: &str, commands: &str) -> String {
        let lines = commands.lines().map(str::trim).filter(|line| !line.is_empty());
        let outputs = lines.map(|line| {
            let words = line.split(' ');
            run(Command::new(program).args(["-n", &self.0]).args(words))
        });
        outputs.collect()
    }

    /// Does something on a thread that is in it.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = File::open(self.path()).expect("the namespace's file");
        thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            work()
        })
    }

    /// Panics if anything of a sandbox is left in it.
    #[track_caller]
    pub fn assert_clean(&self) {
        let (qdiscs, links) = (self.tc("qdisc show"), self.ip("-o link show"));
        assert!(!qdiscs.contains("ingress"), "{qdiscs}");
        assert!(!links.contains("bulkhead"), "{links}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(Command::new("ip").args(["netns", "del", &self.0]));
    }
}

/// Runs a program that has to succeed, and returns what it wrote.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
