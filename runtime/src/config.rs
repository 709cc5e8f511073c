//! The configuration file. `docs/configuration.md` describes every key.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use bulkhead_vmm::config::VmConfig;
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

/// Where the configuration file is when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/bulkhead/config.toml";

/// A guest's kernel prepares for every processor that may come, so these are few unless somebody asks for more.
pub const DEFAULT_MAX_VCPUS: u8 = 4;

/// Settings of the host. A file that sets only some keys leaves the others at their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The guest's kernel, an uncompressed `vmlinux`.
    pub kernel: PathBuf,
    /// The guest's initial RAM file system, which holds the agent.
    pub initramfs: PathBuf,
    /// The VMM's binary.
    pub vmm: PathBuf,
    /// The folders in or below which files may be that `config.json` names in its `vm` section.
    pub vm_paths: Vec<PathBuf>,
    /// The folder of the compiled AppArmor profiles that guests can be given.
    pub apparmor_profiles: PathBuf,
    /// Words appended to the kernel's command line.
    pub kernel_parameters: String,
    /// Virtual processors of a sandbox, 1 to [`VmConfig::MAX_VCPUS`], unless a container's quota asks for more.
    pub vcpus: u8,
    /// How many a sandbox can have after an update, 1 to [`VmConfig::MAX_VCPUS`]; when it is missing, as many as the host
    /// has, at most [`DEFAULT_MAX_VCPUS`].
    pub max_vcpus: Option<u8>,
    /// Memory of a sandbox in MiB, unless a container's limit asks for more.
    pub memory_mib: u32,
    /// How much a sandbox can have after an update, in MiB; when it is missing, what the host has.
    pub max_memory_mib: Option<u32>,
    /// What the guest's kernel and agent need beside a container's memory limit, in MiB.
    pub memory_overhead_mib: u32,
    /// What the host's side of a sandbox may use beside the guest's memory, in MiB; 0: no limit.
    pub host_overhead_mib: u32,
    /// How long a guest may take from its start until its agent answers, in seconds.
    pub boot_timeout_seconds: u32,
    /// How long the agent of a guest that runs may be silent, in seconds; 0: for ever.
    pub agent_timeout_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kernel: "/usr/share/bulkhead/vmlinux".into(),
            initramfs: "/usr/share/bulkhead/initramfs.cpio".into(),
            vmm: "/usr/libexec/bulkhead/bulkhead-vmm".into(),
            vm_paths: ["/usr/share/bulkhead", "/usr/libexec/bulkhead"]
                .map(PathBuf::from)
                .into(),
            apparmor_profiles: "/etc/bulkhead/apparmor".into(),
            kernel_parameters: String::new(),
            vcpus: 1,
            max_vcpus: None,
            memory_mib: 256,
            max_memory_mib: None,
            memory_overhead_mib: 64,
            host_overhead_mib: 64,
            boot_timeout_seconds: 30,
            agent_timeout_seconds: 120,
        }
    }
}

/// Every key, in the order of the documentation.
const KEYS: [&str; 14] = [
    "kernel",
    "initramfs",
    "vmm",
    "vm_paths",
    "apparmor_profiles",
    "kernel_parameters",
    "vcpus",
    "max_vcpus",
    "memory_mib",
    "max_memory_mib",
    "memory_overhead_mib",
    "host_overhead_mib",
    "boot_timeout_seconds",
    "agent_timeout_seconds",
];

/// The least memory that the VMM accepts, in MiB.
const MIN_MEMORY_MIB: u32 = 16;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or a value is of the wrong type.
    #[error("{}, line {line}: {problem}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

impl Config {
    /// Reads `file`, or the file at [`DEFAULT_PATH`] if there is one.
    ///
    /// # Errors
    /// A file that was asked for and is not there; one that is not TOML, has an unknown key, or a value out of range.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_PATH));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|problem| ConfigError::Invalid {
                file: path.to_owned(),
                line: problem.line(&text),
                problem: problem.text,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound && file.is_none() => Ok(Self::default()),
            Err(source) => Err(ConfigError::Unreadable {
                file: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let table = DeTable::parse(text)?;
        for key in table.get_ref().keys() {
            if !KEYS.contains(&key.get_ref().as_ref()) {
                return Err(Problem {
                    text: unknown_key(key.get_ref()),
                    place: key.span(),
                });
            }
        }
        let config: Self = toml::from_str(text)?;
        config.check().map_err(|(key, text)| {
            let place = table.get_ref().get(key).map_or(0..0, toml::Spanned::span);
            Problem {
                text: format!("{key}: {text}"),
                place,
            }
        })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, path) in [
            ("kernel", &self.kernel),
            ("initramfs", &self.initramfs),
            ("vmm", &self.vmm),
            ("apparmor_profiles", &self.apparmor_profiles),
        ] {
            if !path.is_absolute() {
                return Err((
                    key,
                    format!("{:?} is not an absolute path", path.display().to_string()),
                ));
            }
        }
        if let Some(path) = self.vm_paths.iter().find(|path| !path.is_absolute()) {
            let path = path.display().to_string();
            return Err(("vm_paths", format!("{path:?} is not an absolute path")));
        }
        for (key, value) in [("vcpus", Some(self.vcpus)), ("max_vcpus", self.max_vcpus)] {
            if let Some(value) = value.filter(|value| !(1..=VmConfig::MAX_VCPUS).contains(value)) {
                let problem = format!("{value} is not between 1 and {}", VmConfig::MAX_VCPUS);
                return Err((key, problem));
            }
        }
        let memory = [
            ("memory_mib", Some(self.memory_mib)),
            ("max_memory_mib", self.max_memory_mib),
        ];
        for (key, value) in memory {
            if let Some(value) = value.filter(|value| *value < MIN_MEMORY_MIB) {
                return Err((key, format!("{value} is less than {MIN_MEMORY_MIB}")));
            }
        }
        if self.boot_timeout_seconds == 0 {
            return Err(("boot_timeout_seconds", "must be at least 1".to_owned()));
        }
        Ok(())
    }
}

/// What is wrong, and at which bytes of the file.
struct Problem {
    text: String,
    place: Range<usize>,
}

impl Problem {
    fn line(&self, text: &str) -> usize {
        text.bytes()
            .take(self.place.start)
            .filter(|&b| b == b'\n')
            .count()
            + 1
    }
}

impl From<toml::de::Error> for Problem {
    fn from(error: toml::de::Error) -> Self {
        Self {
            text: error.message().trim().replace('\n', "; "),
            place: error.span().unwrap_or(0..0),
        }
    }
}

fn unknown_key(key: &str) -> String {
    let nearest = KEYS
        .iter()
        .min_by_key(|known| strsim::osa_distance(key, known))
        .unwrap_or(&"");
    format!("unknown key {key:?}; the nearest known key is {nearest:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (usize, String) {
        let problem = Config::parse(text).expect_err("the text is wrong");
        (problem.line(text), problem.text)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("").ok(), Some(Config::default()));
    }

    #[test]
    fn a_key_that_is_set_leaves_the_others_alone() {
        let config = Config::parse("vcpus = 4\n").ok().expect("valid");
        assert_eq!(
            config,
            Config {
                vcpus: 4,
                ..Config::default()
            }
        );
    }

    #[test]
    fn the_list_of_keys_is_the_struct() {
        let complete = Config {
            max_vcpus: Some(1),
            max_memory_mib: Some(256),
            ..Config::default()
        };
        let table = toml::Table::try_from(complete).expect("serialisable");
        let mut fields: Vec<_> = table.keys().map(String::as_str).collect();
        let mut keys = KEYS.to_vec();
        fields.sort_unstable();
        keys.sort_unstable();
        assert_eq!(fields, keys);
        assert!(keys.len() <= 30);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_and_its_line() {
        let (line, text) = error("vcpus = 1\n\nmemroy_mib = 512\n");
        assert_eq!(line, 3);
        assert_eq!(
            text,
            "unknown key \"memroy_mib\"; the nearest known key is \"memory_mib\""
        );
    }

    #[test]
    fn a_wrong_type_names_its_line() {
        let (line, text) = error("vcpus = 1\nmemory_mib = \"many\"\n");
        assert_eq!(line, 2);
        assert!(text.contains("invalid type"), "{text}");
    }

    #[test]
    fn not_toml_names_its_line() {
        assert_eq!(error("vcpus = 1\nmemory_mib\n").0, 2);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (text, key) in [
            ("vcpus = 0", "vcpus"),
            ("vcpus = 65", "vcpus"),
            ("max_vcpus = 65", "max_vcpus"),
            ("memory_mib = 15", "memory_mib"),
            ("max_memory_mib = 15", "max_memory_mib"),
            ("boot_timeout_seconds = 0", "boot_timeout_seconds"),
            ("kernel = \"vmlinux\"", "kernel"),
            ("vm_paths = [\"/usr\", \"share\"]", "vm_paths"),
        ] {
            assert!(error(text).1.starts_with(key), "{text}");
        }
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there() {
        let error = Config::load(Some(Path::new("/nonexistent/config.toml"))).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "/nonexistent/config.toml: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn the_documentation_has_every_key() {
        let page = include_str!("../../docs/configuration.md");
        for key in KEYS {
            assert!(
                page.contains(&format!("`{key}`")),
                "docs/configuration.md does not describe {key}"
            );
        }
    }
}
