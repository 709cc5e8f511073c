//! Where in the host's cgroup tree a sandbox is: `linux.cgroupsPath`, as either driver reads it.

use std::{
    fmt::Write as _,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::CgroupError;
use crate::sandbox::Id;

/// The folder of the cgroups that are not placed elsewhere, below the root of the tree.
const PARENT: &str = "bulkhead";
/// The slice of the scopes that are not placed elsewhere.
const DEFAULT_SLICE: &str = "system.slice";
/// The slice that is the root of the tree.
const ROOT_SLICE: &str = "-.slice";
/// The longest name of a unit, as systemd has it.
const LONGEST_UNIT: usize = 255;

/// Who makes cgroups on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// We do, as folders of the tree.
    Cgroupfs,
    /// systemd does, when asked over D-Bus.
    Systemd,
}

/// A scope: a unit of systemd whose processes somebody else has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Its name, with `.scope`.
    pub name: String,
    /// The slice that it is in, with `.slice`.
    pub slice: String,
}

/// For [`Driver::Cgroupfs`]: an absolute path is from the root of the tree, a relative one from our own folder, and none is
/// the id in that.
pub fn folder(id: &Id, cgroups_path: &str) -> Result<PathBuf, CgroupError> {
    if cgroups_path.is_empty() {
        return Ok(Path::new(PARENT).join(id.as_str()));
    }
    let path = Path::new(cgroups_path);
    let below = below_root(path)
        .filter(|below| !below.as_os_str().is_empty())
        .ok_or_else(|| CgroupError::Path {
            path: cgroups_path.to_owned(),
            problem: "does not name a cgroup below the root of the tree",
        })?;
    Ok(if path.has_root() {
        below
    } else {
        Path::new(PARENT).join(below)
    })
}

/// The path without its root and without `.`; none if it has `..`.
fn below_root(path: &Path) -> Option<PathBuf> {
    path.components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}

/// For [`Driver::Systemd`]: `slice:prefix:name` is the scope `prefix-name.scope` in that slice; none is the id.
pub fn scope(id: &Id, cgroups_path: &str) -> Result<Scope, CgroupError> {
    let refuse = |problem| CgroupError::Path {
        path: cgroups_path.to_owned(),
        problem,
    };
    let (slice, prefix, name) = if cgroups_path.is_empty() {
        ("", PARENT, escaped(id.as_str()))
    } else {
        let mut parts = cgroups_path.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name.to_owned()),
            _ => {
                return Err(refuse(
                    "is not of the form slice:prefix:name, which --systemd-cgroup needs",
                ));
            }
        }
    };
    let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
    if name.ends_with(".slice") {
        return Err(refuse(
            "names a slice, in which there can be no process; name a scope",
        ));
    }
    let unit = match prefix {
        "" => format!("{name}.scope"),
        _ => format!("{prefix}-{name}.scope"),
    };
    if name.is_empty() || !is_unit_name(&unit) {
        return Err(refuse(
            "does not make the name of a unit: 1 to 255 letters, digits and : - _ . \\ @",
        ));
    }
    if !is_slice(slice) {
        return Err(refuse(
            "has a first part that is not the name of a slice, such as machine.slice",
        ));
    }
    Ok(Scope {
        name: unit,
        slice: slice.to_owned(),
    })
}

impl Scope {
    /// Its folder, relative to the root of the tree: the slice `a-b.slice` is in `a.slice` (systemd.slice(5)).
    pub fn folder(&self) -> PathBuf {
        let mut folder = PathBuf::new();
        if self.slice != ROOT_SLICE {
            let stem = self.slice.strip_suffix(".slice").unwrap_or(&self.slice);
            let dashes = stem.match_indices('-').map(|(at, _)| at);
            for end in dashes.chain([stem.len()]) {
                folder.push(format!("{}.slice", stem.get(..end).unwrap_or(stem)));
            }
        }
        folder.join(&self.name)
    }
}

/// What an id has and the name of a unit cannot have, as `systemd-escape` writes it.
fn escaped(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for c in id.chars() {
        if is_unit_character(c) {
            text.push(c);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{:02x}", u32::from(c));
        }
    }
    text
}

fn is_unit_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || ":-_.\\@".contains(c)
}

fn is_unit_name(name: &str) -> bool {
    name.len() <= LONGEST_UNIT && name.chars().all(is_unit_character)
}

fn is_slice(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".slice") else {
        return false;
    };
    name == ROOT_SLICE || is_unit_name(name) && stem.split('-').all(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> Id {
        text.parse().expect("valid id")
    }

    fn scope_of(path: &str) -> Result<(String, PathBuf), String> {
        let scope = scope(&id("a"), path).map_err(|e| e.to_string())?;
        Ok((scope.name.clone(), scope.folder()))
    }

    #[test]
    fn a_folder_is_from_the_root_or_from_ours() {
        let at = |path| folder(&id("a"), path).map_err(|e| e.to_string());
        assert_eq!(at(""), Ok("bulkhead/a".into()));
        assert_eq!(at("/pods//x"), Ok("pods/x".into()));
        assert_eq!(at("./pods/x/"), Ok("bulkhead/pods/x".into()));
        for none in ["/", "//.", ".", "..", "/../a", "a/../../b"] {
            let error = at(none).expect_err(none);
            assert!(error.starts_with("linux.cgroupsPath: "), "{error}");
        }
    }

    #[test]
    fn a_scope_is_in_its_slice_and_that_in_those_above() {
        assert_eq!(
            scope_of(""),
            Ok((
                "bulkhead-a.scope".to_owned(),
                "system.slice/bulkhead-a.scope".into()
            ))
        );
        assert_eq!(
            scope_of("machine.slice:libpod:1f"),
            Ok((
                "libpod-1f.scope".to_owned(),
                "machine.slice/libpod-1f.scope".into()
            ))
        );
        assert_eq!(
            scope_of("kube-pods-x.slice::c"),
            Ok((
                "c.scope".to_owned(),
                "kube.slice/kube-pods.slice/kube-pods-x.slice/c.scope".into()
            ))
        );
        assert_eq!(
            scope_of("-.slice:p:c"),
            Ok(("p-c.scope".to_owned(), "p-c.scope".into()))
        );
        assert_eq!(
            scope(&id("a+b"), "").map(|scope| scope.name).ok(),
            Some("bulkhead-a\\x2bb.scope".to_owned())
        );
    }

    #[test]
    fn what_is_no_scope_is_refused_by_name() {
        for path in [
            "/a/b",
            "a",
            "a:b",
            "system.slice:b:c:d",
            "system:b:c",
            "a--b.slice:b:c",
            "-a.slice:b:c",
            ".slice:b:c",
            "../x.slice:b:c",
            "system.slice:b:",
            "system.slice:b:c/d",
            "system.slice:b:c.slice",
            &format!("system.slice:b:{}", "c".repeat(256)),
        ] {
            let error = scope_of(path).expect_err(path);
            assert!(
                error.starts_with(&format!("linux.cgroupsPath: {path:?} ")),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_tree(path in "[a./:-]{0,12}|.{0,12}") {
            let stays = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
            if let Ok(folder) = folder(&id("a"), &path) {
                prop_assert!(stays(&folder) && folder.components().count() > 0);
            }
            if let Ok(scope) = scope(&id("a"), &path) {
                prop_assert!(stays(&scope.folder()));
            }
        }
    }
}
