//! The AppArmor profile of a process, from the folder of compiled profiles that the configuration names.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::config::Config;

/// The longest compiled policy, in bytes: it travels to the guest in one message.
const MAX_POLICY: u64 = 2 << 20;

/// A profile that the guest is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppArmorProfile {
    /// Its name, as the process's.
    pub name: String,
    /// What `apparmor_parser` made of it.
    pub policy: Vec<u8>,
}

/// Why a profile is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    /// There is no file of its name.
    #[error(
        "process.apparmorProfile: {name:?} is not known; a guest does not have the host's profiles: make {} with \
         `apparmor_parser --skip-kernel-load --ofile`, or name the profile \"unconfined\"",
        file.display()
    )]
    Unknown {
        /// Its name.
        name: String,
        /// Where it would be.
        file: PathBuf,
    },
    /// Its name cannot be that of a file.
    #[error("process.apparmorProfile: {0:?} is not the name of a profile")]
    Name(String),
    /// The file cannot be read.
    #[error("process.apparmorProfile: {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too long, or empty.
    #[error("process.apparmorProfile: {}: not 1 byte to {} MiB long", file.display(), MAX_POLICY >> 20)]
    Length {
        /// The file.
        file: PathBuf,
    },
}

impl AppArmorProfile {
    /// The profile of that name; none if the process is not to be confined.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read.
    pub fn find(config: &Config, name: Option<&str>) -> Result<Option<Self>, AppArmorError> {
        match name {
            None | Some("" | "unconfined") => Ok(None),
            Some(name) => Self::read(&config.apparmor_profiles, name).map(Some),
        }
    }

    fn read(folder: &Path, name: &str) -> Result<Self, AppArmorError> {
        let file = folder.join(file_name(name)?);
        let mut policy = Vec::new();
        let read = File::open(&file).and_then(|from| from.take(MAX_POLICY + 1).read_to_end(&mut policy));
        match read {
            Ok(length) if length == 0 || length as u64 > MAX_POLICY => Err(AppArmorError::Length { file }),
            Ok(_) => Ok(Self {
                name: name.to_owned(),
                policy,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(AppArmorError::Unknown {
                name: name.to_owned(),
                file,
            }),
            Err(source) => Err(AppArmorError::Unreadable { file, source }),
        }
    }
}

/// The file that has a profile: of one that is named by a path, the name that AppArmor's own tools give it; of a child
/// profile, the parent's.
fn file_name(name: &str) -> Result<String, AppArmorError> {
    let parent = name.split_once("//").map_or(name, |(parent, _)| parent);
    let file = parent.strip_prefix('/').unwrap_or(parent).replace('/', ".");
    if file.is_empty() || file.starts_with('.') || file.contains('\0') {
        return Err(AppArmorError::Name(name.to_owned()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_profile_is_a_file_of_its_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("usr.bin.man"), "policy").expect("writable");
        fs::write(folder.path().join("empty"), "").expect("writable");
        let config = Config {
            apparmor_profiles: folder.path().to_owned(),
            ..Config::default()
        };
        let find = |name| AppArmorProfile::find(&config, Some(name)).map_err(|error| error.to_string());
        for name in ["/usr/bin/man", "usr.bin.man", "/usr/bin/man//filter"] {
            let profile = find(name).expect(name).expect("it is to be confined");
            assert_eq!(
                (profile.name.as_str(), profile.policy.as_slice()),
                (name, &b"policy"[..])
            );
        }
        for name in ["", "unconfined"] {
            assert_eq!(find(name), Ok(None));
        }
        for (name, words) in [
            ("unknown", "apparmor_parser"),
            ("../usr.bin.man", "not the name of a profile"),
            ("/", "not the name of a profile"),
            ("a\0b", "not the name of a profile"),
            ("empty", "1 byte to 2 MiB"),
        ] {
            let error = find(name).expect_err(name);
            assert!(
                error.contains(words) && error.starts_with("process.apparmorProfile"),
                "{error}"
            );
        }
    }
}
