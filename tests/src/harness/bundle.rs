//! OCI bundles to run.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{artifacts, rootfs};

/// A bundle: a folder with `config.json` and `rootfs`, the latter a small busybox system.
pub struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    /// Makes the bundle in the new folder `folder`; `edit` changes the default `config.json`.
    pub(super) fn new(folder: PathBuf, edit: impl FnOnce(&mut Value)) -> Self {
        let bundle = Self { folder };
        rootfs::make(&bundle.rootfs());
        let mut config = default_config();
        edit(&mut config);
        bundle.write_config(&serde_json::to_vec_pretty(&config).expect("JSON"));
        bundle
    }

    /// The folder itself, what `--bundle` names.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The container's root on the host.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// The path of `config.json`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Replaces `config.json` by these bytes.
    pub fn write_config(&self, bytes: &[u8]) {
        fs::write(self.config(), bytes).expect("config.json");
    }

    /// Puts a static program of this crate at `/bin/NAME`.
    #[must_use]
    pub fn with_program(self, name: &str) -> Self {
        fs::copy(artifacts::program(name), self.rootfs().join("bin").join(name))
            .unwrap_or_else(|error| panic!("the program {name}: {error}"));
        self
    }
}

/// What `bulkhead spec` writes, in its essence, with `true` for a program.
#[must_use]
pub fn default_config() -> Value {
    serde_json::from_str(include_str!("config.json")).expect("the default config.json is JSON")
}
