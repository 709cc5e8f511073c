//! A test's own corner of the machine.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::set_child_subreaper;
use serde_json::Value;
use tempfile::TempDir;

use super::artifacts;
use super::bulkhead::Invocation;
use super::bundle::Bundle;
use super::leaks::Snapshot;

/// One test at a time looks at the whole machine.
const LOCK: &str = "/tmp/bulkhead-tests.lock";
/// How long the last process may take to end once `bulkhead` has.
const SETTLE: Duration = Duration::from_secs(60);

/// A temporary folder with bundles, a configuration and a state folder. Dropping it fails the test if anything is
/// left on the machine that was not there when it was made.
pub struct Host {
    before: Snapshot,
    folder: TempDir,
    /// What `--config` says.
    pub settings: toml::Table,
    runs: AtomicU32,
    _lock: Flock<File>,
}

impl Host {
    /// Waits for its turn and makes one.
    ///
    /// # Panics
    /// Something under test has not been built.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it waits and takes a lock")]
    pub fn new() -> Self {
        let lock = File::create(LOCK).expect("the lock file");
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error);
        set_child_subreaper(true).expect("prctl");
        let before = Snapshot::take();
        let folder = tempfile::Builder::new()
            .prefix("bulkhead-test.")
            .tempdir()
            .expect("a temporary folder");
        fs::create_dir(folder.path().join("state")).expect("the state folder");
        let mut settings = toml::Table::new();
        let mut set = |key: &str, value: toml::Value| settings.insert(key.into(), value);
        set("kernel", path(&artifacts::kernel()));
        set("initramfs", path(&artifacts::initramfs()));
        set("vmm", path(&artifacts::vmm()));
        set("vcpus", 1.into());
        set("memory_mib", 128.into());
        set("boot_timeout_seconds", 120.into());
        Self {
            before,
            folder,
            settings,
            runs: AtomicU32::new(0),
            _lock: lock.expect("flock"),
        }
    }

    /// The test's own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The state folder, what `--root` says.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// A file of this test's own with these contents.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, contents).expect("a file in the test's folder");
        path
    }

    /// A new folder of this test's own.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.folder().join(name);
        fs::create_dir(&path).expect("a folder in the test's folder");
        path
    }

    /// A new bundle; `edit` changes the default `config.json`.
    pub fn bundle(&self, edit: impl FnOnce(&mut Value)) -> Bundle {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        Bundle::new(self.folder().join(format!("bundle-{number}")), edit)
    }

    /// A new bundle that runs the shell script.
    #[must_use]
    pub fn script(&self, script: &str) -> Bundle {
        self.bundle(|config| config["process"]["args"] = serde_json::json!(["sh", "-c", script]))
    }

    /// A container identifier that nothing else uses.
    #[must_use]
    pub fn new_id(&self) -> String {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        format!("test-{}-{number}", std::process::id())
    }

    /// `bulkhead` with this host's configuration and state folder.
    ///
    /// # Panics
    /// The configuration cannot be written.
    #[must_use]
    pub fn bulkhead(&self) -> Invocation {
        let config = self.file("config.toml", self.settings.to_string());
        self.bulkhead_with(&config, &self.state())
    }

    /// `bulkhead` with another configuration and state folder.
    #[must_use]
    pub fn bulkhead_with(&self, config: &Path, state: &Path) -> Invocation {
        let mut command = Command::new(artifacts::bulkhead());
        command.arg("--config").arg(config).arg("--root").arg(state);
        Invocation::new(command)
    }

    /// A program that is `bulkhead` with this host's configuration, for callers that have options of their own only.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        let config = self.file("config.toml", self.settings.to_string());
        let script = format!(
            "#!/bin/sh\nexec '{}' --config '{}' \"$@\"\n",
            artifacts::bulkhead().display(),
            config.display()
        );
        let program = self.file("bulkhead", script);
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("a file of the test's own");
        program
    }

    /// An initramfs whose first process is a program of this crate.
    #[must_use]
    pub fn initramfs_of(&self, program: &str) -> PathBuf {
        let output = self.folder().join(format!("initramfs-{program}"));
        artifacts::make_initramfs(&artifacts::program(program), &output);
        output
    }

    /// `bulkhead run` of the bundle, with an identifier of its own.
    #[must_use]
    pub fn run(&self, bundle: &Bundle) -> Invocation {
        self.run_as(bundle, &self.new_id())
    }

    /// `bulkhead run` of the bundle as `id`.
    #[must_use]
    pub fn run_as(&self, bundle: &Bundle, id: &str) -> Invocation {
        self.bulkhead()
            .args(["run", "--bundle"])
            .arg(bundle.folder())
            .arg(id)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.before.wait_for_processes(SETTLE);
        }
        let left = self.before.leftovers(self.folder(), &self.state());
        self.before.restore();
        if !left.is_empty() {
            let report = format!("left behind:\n    {}", left.join("\n    "));
            if thread::panicking() {
                eprintln!("{report}");
            } else {
                panic!("{report}");
            }
        }
    }
}

fn path(path: &Path) -> toml::Value {
    path.to_str().expect("a path in UTF-8").into()
}
