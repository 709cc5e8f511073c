//! What the guest's root holds, in the order it is written.

/// One file of the guest's root, owned by root and dated 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Path without the leading slash. Parents come before what is in them.
    pub path: &'static str,
    /// Permission bits, without the file type.
    pub permissions: u32,
    /// What kind of file it is.
    pub kind: Kind,
}

/// The kinds of file in the guest's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An empty directory or the parent of later entries.
    Directory,
    /// A character device with its major and minor number.
    CharacterDevice(u32, u32),
    /// The agent's executable.
    Agent,
}

const fn directory(path: &'static str, permissions: u32) -> Entry {
    Entry {
        path,
        permissions,
        kind: Kind::Directory,
    }
}

/// The guest's root: a sorted list.
///
/// `dev/console` is there because the kernel opens it as process 1's standard streams before anything is mounted.
pub const ENTRIES: [Entry; 7] = [
    directory("dev", 0o755),
    Entry {
        path: "dev/console",
        permissions: 0o600,
        kind: Kind::CharacterDevice(5, 1),
    },
    Entry {
        path: "init",
        permissions: 0o755,
        kind: Kind::Agent,
    },
    directory("proc", 0o555),
    directory("run", 0o755),
    directory("sys", 0o555),
    directory("tmp", 0o1777),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_order_is_fixed() {
        assert!(ENTRIES.is_sorted_by_key(|entry| entry.path));
        for entry in ENTRIES {
            if let Some((parent, _)) = entry.path.rsplit_once('/') {
                assert!(
                    ENTRIES.contains(&directory(parent, 0o755)),
                    "{parent} of {}",
                    entry.path
                );
            }
        }
    }
}
