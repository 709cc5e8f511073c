//! The process object of a further process in a container: that of the container's `config.json` with some fields replaced,
//! or one of its own.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    FieldError, Process, bundle::parse, process::check_further_process, spec::located,
    validate::check_process,
};

/// The longest process file in bytes, as the process travels to the guest in one message.
const MAX_LENGTH: u64 = 3 << 20;

/// What differs from the process of `config.json`. What is not given stays, and what can be given often is added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The working directory.
    pub cwd: Option<String>,
    /// More of the environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Whether it gets a terminal; this is never taken from `config.json`.
    pub terminal: bool,
    /// The user, and the group if given.
    pub user: Option<UserChange>,
    /// More groups.
    pub additional_gids: Vec<u32>,
    /// Whether it, and what it starts, can gain privileges.
    pub no_new_privileges: Option<bool>,
    /// More capabilities.
    pub capabilities: Vec<String>,
    /// The AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// The SELinux label.
    pub selinux_label: Option<String>,
}

/// Another user for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserChange {
    /// The user.
    pub uid: u32,
    /// The group; without one it stays.
    pub gid: Option<u32>,
}

/// A process that has been found good.
#[derive(Debug, Clone, PartialEq)]
pub struct FurtherProcess {
    /// The object, as the agent gets it.
    pub document: Value,
    /// What the host's side acts upon.
    pub process: Process,
}

/// Why a process object cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FurtherProcessError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// As the caller named it.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too long.
    #[error("{}: longer than the {} MiB that a guest can be sent", .0.display(), MAX_LENGTH >> 20)]
    TooLong(PathBuf),
    /// The file is not JSON.
    #[error("{}: not valid JSON: {source}", file.display())]
    Syntax {
        /// As the caller named it.
        file: PathBuf,
        /// Says line and column.
        source: serde_json::Error,
    },
    /// A field is wrong, or asks for what cannot be done.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl FurtherProcess {
    /// Reads one from a file.
    ///
    /// # Errors
    /// See [`FurtherProcessError`].
    pub fn load(file: &Path) -> Result<Self, FurtherProcessError> {
        let mut text = Vec::new();
        let read = File::open(file).and_then(|from| from.take(MAX_LENGTH + 1).read_to_end(&mut text));
        let length = read.map_err(|source| FurtherProcessError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        if length as u64 > MAX_LENGTH {
            return Err(FurtherProcessError::TooLong(file.to_owned()));
        }
        let document = parse(&text).map_err(|source| FurtherProcessError::Syntax {
            file: file.to_owned(),
            source,
        })?;
        Ok(Self::check(document)?)
    }

    /// Makes one from the `process` of a container's `config.json`.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn change(document: Value, changes: Changes) -> Result<Self, FieldError> {
        let Value::Object(mut process) = document else {
            return Err(FieldError::new("process", "is no object"));
        };
        process.insert("args".to_owned(), json!(changes.args));
        process.insert("terminal".to_owned(), changes.terminal.into());
        for (name, value) in [
            ("cwd", changes.cwd.map(Value::from)),
            ("noNewPrivileges", changes.no_new_privileges.map(Value::from)),
            ("apparmorProfile", changes.apparmor_profile.map(Value::from)),
            ("selinuxLabel", changes.selinux_label.map(Value::from)),
        ] {
            if let Some(value) = value {
                process.insert(name.to_owned(), value);
            }
        }
        change_env(&mut process, changes.env);
        let user = object(&mut process, "user");
        if let Some(UserChange { uid, gid }) = changes.user {
            user.insert("uid".to_owned(), uid.into());
            user.extend(gid.map(|gid| ("gid".to_owned(), gid.into())));
        }
        append(user, "additionalGids", changes.additional_gids);
        if !changes.capabilities.is_empty() {
            let sets = object(&mut process, "capabilities");
            for set in ["bounding", "effective", "permitted"] {
                append(sets, set, changes.capabilities.clone());
            }
        }
        Self::check(Value::Object(process))
    }

    fn check(document: Value) -> Result<Self, FieldError> {
        let process =
            serde_path_to_error::deserialize(&document).map_err(|error| located("process", &error))?;
        check_process(&process)?;
        check_further_process(&document)?;
        Ok(Self { document, process })
    }
}

/// Of a variable that is there twice, programs see the first and the specification means the last.
fn change_env(process: &mut Map<String, Value>, more: Vec<String>) {
    if more.is_empty() {
        return;
    }
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = Vec::new();
    let former = process.remove("env").map(Vec::<String>::deserialize);
    for entry in former
        .and_then(Result::ok)
        .unwrap_or_default()
        .into_iter()
        .chain(more)
    {
        let name = name_of(&entry);
        env.retain(|other| name_of(other) != name);
        env.push(entry);
    }
    process.insert("env".to_owned(), json!(env));
}

/// The object of that name, made if there is none.
fn object<'a>(parent: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let member = parent.entry(name).or_insert_with(|| json!({}));
    if !member.is_object() {
        *member = json!({});
    }
    member.as_object_mut().expect("it has just been made one")
}

/// Adds to the list of that name, made if there is none.
fn append<T: Into<Value>>(parent: &mut Map<String, Value>, name: &str, more: Vec<T>) {
    if more.is_empty() {
        return;
    }
    let member = parent.entry(name).or_insert_with(|| json!([]));
    match member.as_array_mut() {
        Some(list) => list.extend(more.into_iter().map(Into::into)),
        None => *member = more.into_iter().map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own() -> Value {
        json!({
            "args": ["sleep", "1000"],
            "cwd": "/srv",
            "env": ["PATH=/bin", "A=1"],
            "terminal": true,
            "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
            "capabilities": {"bounding": ["CAP_KILL"]},
        })
    }

    fn args(args: &[&str]) -> Vec<String> {
        args.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_not_given_stays() {
        let changes = Changes {
            args: args(&["id"]),
            ..Changes::default()
        };
        let mut expected = own();
        expected["args"] = json!(["id"]);
        expected["terminal"] = json!(false);
        assert_eq!(
            FurtherProcess::change(own(), changes).expect("good").document,
            expected
        );
    }

    #[test]
    fn what_is_given_replaces_or_is_added() {
        let changes = Changes {
            args: args(&["id"]),
            cwd: Some("/tmp".to_owned()),
            env: args(&["A=2", "B=3", "B=4"]),
            terminal: true,
            user: Some(UserChange { uid: 7, gid: None }),
            additional_gids: vec![8],
            no_new_privileges: Some(true),
            capabilities: args(&["CAP_CHOWN"]),
            apparmor_profile: Some("p".to_owned()),
            selinux_label: None,
        };
        assert_eq!(
            FurtherProcess::change(own(), changes).expect("good").document,
            json!({
                "args": ["id"],
                "cwd": "/tmp",
                "env": ["PATH=/bin", "A=2", "B=4"],
                "terminal": true,
                "user": {"uid": 7, "gid": 2, "additionalGids": [3, 8]},
                "capabilities": {
                    "bounding": ["CAP_KILL", "CAP_CHOWN"],
                    "effective": ["CAP_CHOWN"],
                    "permitted": ["CAP_CHOWN"],
                },
                "noNewPrivileges": true,
                "apparmorProfile": "p",
            })
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let change = |changes| {
            FurtherProcess::change(own(), changes)
                .expect_err("wrong")
                .to_string()
        };
        let empty = change(Changes::default());
        assert!(empty.starts_with("process.args: empty"), "{empty}");
        let relative = change(Changes {
            args: args(&["id"]),
            cwd: Some("tmp".to_owned()),
            ..Changes::default()
        });
        assert!(
            relative.starts_with("process.cwd: \"tmp\" is not an absolute path"),
            "{relative}"
        );
        let label = change(Changes {
            args: args(&["id"]),
            selinux_label: Some("system_u".to_owned()),
            ..Changes::default()
        });
        assert!(
            label.starts_with("process.selinuxLabel: the guest has no SELinux"),
            "{label}"
        );
    }

    proptest! {
        #[test]
        fn nothing_in_a_file_makes_it_panic(
            key in "args|cwd|env|user|capabilities|terminal|consoleSize",
            value in "null|\\[\\]|\\{\\}|1|-1|\"\"|\\[1\\]|\\[null\\]|\\{\"bounding\":1\\}|true",
        ) {
            let mut process = own();
            process[key] = serde_json::from_str(&value).expect("JSON");
            let changes = Changes {
                args: vec!["id".to_owned()],
                env: vec!["A".to_owned()],
                user: Some(UserChange { uid: 1, gid: Some(1) }),
                additional_gids: vec![1],
                capabilities: vec!["CAP_KILL".to_owned()],
                ..Changes::default()
            };
            let _ = FurtherProcess::change(process.clone(), changes);
            let _ = FurtherProcess::check(process);
        }
    }
}
