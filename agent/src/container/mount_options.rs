//! The options of a mount in config.json: which attribute, propagation, superblock flag or datum each word stands for.

use crate::syscalls::MountAttributes;

/// What all options of one mount ask for together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Some: not a new file system but a folder or file that exists; `true` with all that is mounted below.
    pub bind: Option<bool>,
    /// Change a mount that is there already.
    pub remount: bool,
    /// Attributes of this mount.
    pub attributes: MountAttributes,
    /// Attributes of this mount and all below.
    pub recursive: MountAttributes,
    /// `MS_SHARED` and the like, in order; `true` for the mounts below as well.
    pub propagation: Vec<(u64, bool)>,
    /// Words that every file system knows, for its superblock.
    pub flags: Vec<&'static str>,
    /// What only the file system itself understands.
    pub data: Vec<(String, Option<String>)>,
    /// Fill a new tmpfs with what it covers.
    pub copy_up: bool,
}

impl MountOptions {
    /// Reads the options, later ones winning.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    /// Whether the mount is to be read-only.
    pub fn read_only(&self) -> bool {
        self.attributes.set & libc::MOUNT_ATTR_RDONLY != 0
    }

    fn add(&mut self, option: &str) {
        match option {
            // The last ones only say what mount(2) is to say to the kernel's log, and what file systems do by themselves.
            "" | "defaults" | "loud" | "silent" | "iversion" | "noiversion" => {}
            // Done on the host.
            "idmap" | "ridmap" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            _ => {
                if let Some((change, recursive)) = attribute(option) {
                    let attributes = if recursive {
                        &mut self.recursive
                    } else {
                        &mut self.attributes
                    };
                    change.apply(attributes);
                } else if let Some(propagation) = propagation(option) {
                    self.propagation.push(propagation);
                } else if let Some((flag, set)) = superblock_flag(option) {
                    self.flags.retain(|other| *other != flag);
                    if set {
                        self.flags.push(flag);
                    }
                } else {
                    self.data.push(match option.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (option.to_owned(), None),
                    });
                }
            }
        }
    }
}

/// One attribute, to be set or cleared, or one of the ways to keep access times.
enum Change {
    Set(u64),
    Clear(u64),
    AccessTime(u64),
    /// The ordinary way, unless another than this one has been asked for.
    NotAccessTime(u64),
}

impl Change {
    fn apply(self, attributes: &mut MountAttributes) {
        match self {
            Self::Set(bit) => {
                attributes.set |= bit;
                attributes.clear &= !bit;
            }
            Self::Clear(bit) => {
                attributes.clear |= bit;
                attributes.set &= !bit;
            }
            Self::AccessTime(mode) => {
                attributes.clear |= libc::MOUNT_ATTR__ATIME;
                attributes.set = (attributes.set & !libc::MOUNT_ATTR__ATIME) | mode;
            }
            Self::NotAccessTime(mode) => {
                let said = attributes.clear & libc::MOUNT_ATTR__ATIME != 0;
                if !said || attributes.set & libc::MOUNT_ATTR__ATIME == mode {
                    Self::AccessTime(libc::MOUNT_ATTR_RELATIME).apply(attributes);
                }
            }
        }
    }
}

fn attribute(option: &str) -> Option<(Change, bool)> {
    if let Some(change) = plain_attribute(option) {
        return Some((change, false));
    }
    plain_attribute(option.strip_prefix('r')?).map(|change| (change, true))
}

fn plain_attribute(option: &str) -> Option<Change> {
    Some(match option {
        "ro" => Change::Set(libc::MOUNT_ATTR_RDONLY),
        "rw" => Change::Clear(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => Change::Set(libc::MOUNT_ATTR_NOSUID),
        "suid" => Change::Clear(libc::MOUNT_ATTR_NOSUID),
        "nodev" => Change::Set(libc::MOUNT_ATTR_NODEV),
        "dev" => Change::Clear(libc::MOUNT_ATTR_NODEV),
        "noexec" => Change::Set(libc::MOUNT_ATTR_NOEXEC),
        "exec" => Change::Clear(libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => Change::Set(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => Change::Clear(libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => Change::Set(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Change::Clear(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => Change::AccessTime(libc::MOUNT_ATTR_NOATIME),
        "strictatime" => Change::AccessTime(libc::MOUNT_ATTR_STRICTATIME),
        "relatime" => Change::AccessTime(libc::MOUNT_ATTR_RELATIME),
        "atime" => Change::NotAccessTime(libc::MOUNT_ATTR_NOATIME),
        "norelatime" => Change::NotAccessTime(libc::MOUNT_ATTR_RELATIME),
        "nostrictatime" => Change::NotAccessTime(libc::MOUNT_ATTR_STRICTATIME),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<(u64, bool)> {
    let (kind, recursive) = match option {
        "shared" | "slave" | "private" | "unbindable" => (option, false),
        "rshared" | "rslave" | "rprivate" | "runbindable" => (&option[1..], true),
        _ => return None,
    };
    let flag = match kind {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        _ => libc::MS_UNBINDABLE,
    };
    Some((flag, recursive))
}

/// The `MS_SHARED` or the like, and whether for the mounts below as well, of linux.rootfsPropagation.
pub fn root_propagation(word: &str) -> Option<(u64, bool)> {
    propagation(word)
}

fn superblock_flag(option: &str) -> Option<(&'static str, bool)> {
    Some(match option {
        "sync" => ("sync", true),
        "async" => ("sync", false),
        "dirsync" => ("dirsync", true),
        "mand" => ("mand", true),
        "nomand" => ("mand", false),
        "lazytime" => ("lazytime", true),
        "nolazytime" => ("lazytime", false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bulkhead_agent_protocol::spec::{MOUNT_OPTIONS, PROPAGATIONS};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn later_options_win() {
        let options = MountOptions::parse(["ro", "nosuid", "rw", "noatime", "strictatime"]);
        assert_eq!(
            options.attributes.set,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(
            options.attributes.clear,
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME
        );
        assert!(!options.read_only());
    }

    #[test]
    fn a_way_to_keep_access_times_is_only_taken_back_by_its_own_word() {
        let way = |options: &[&str]| {
            let attributes = MountOptions::parse(options.iter().copied()).attributes;
            (attributes.clear, attributes.set)
        };
        let all = libc::MOUNT_ATTR__ATIME;
        assert_eq!(
            way(&["noatime", "nostrictatime"]),
            (all, libc::MOUNT_ATTR_NOATIME)
        );
        assert_eq!(
            way(&["strictatime", "nostrictatime"]),
            (all, libc::MOUNT_ATTR_RELATIME)
        );
        assert_eq!(
            way(&["strictatime", "atime"]),
            (all, libc::MOUNT_ATTR_STRICTATIME)
        );
        assert_eq!(way(&["atime"]), (all, libc::MOUNT_ATTR_RELATIME));
    }

    #[test]
    fn recursive_attributes_are_apart() {
        let options = MountOptions::parse(["rbind", "rro", "rnoexec", "relatime", "rrelatime"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(
            options.recursive.set,
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC
        );
        assert_eq!(options.attributes.set, 0);
        assert_eq!(options.recursive.clear, libc::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn every_option_of_the_specification_is_known() {
        for option in MOUNT_OPTIONS {
            assert_eq!(MountOptions::parse([*option]).data, [], "{option}");
        }
    }

    #[test]
    fn every_propagation_of_the_root_is_known() {
        for word in PROPAGATIONS {
            assert!(root_propagation(word).is_some(), "{word}");
        }
    }

    #[test]
    fn what_is_not_known_is_for_the_file_system() {
        let options = MountOptions::parse(["size=64k", "newinstance"]);
        assert_eq!(
            options.data,
            [
                ("size".to_owned(), Some("64k".to_owned())),
                ("newinstance".to_owned(), None)
            ]
        );
    }

    proptest! {
        #[test]
        fn an_attribute_is_never_set_and_cleared(
            options in prop::collection::vec(prop::sample::select(vec!["ro", "rw", "nosuid", "suid", "dev", "nodev"]), 0..9)
        ) {
            let parsed = MountOptions::parse(options);
            prop_assert_eq!(parsed.attributes.set & parsed.attributes.clear, 0);
        }
    }
}
