//! How containerd executes the shim: with flags in the manner of Go, and an action.

use std::{ffi::OsString, path::PathBuf};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Print the version.
    Version,
    /// Print what the shim can do.
    Info,
    /// Have a shim serve a container, and print where.
    Start,
    /// Remove what a container has left whose shim has gone.
    Delete,
    /// Serve, on the socket that [`Action::Start`] has made.
    Serve,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// What is to be done.
    pub action: Action,
    /// The container, or for a shim that serves the first one.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's socket.
    pub address: String,
    /// The container's bundle, where given.
    pub bundle: PathBuf,
    /// Where a shim that serves listens.
    pub socket: PathBuf,
    /// The configuration file of the containers of a shim that serves, if not the usual one.
    pub config: Option<PathBuf>,
    /// Log what is done, not only what goes wrong.
    pub debug: bool,
}

/// Why the command line cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// A flag that no containerd gives.
    #[error("unknown flag {0:?}")]
    Flag(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value")]
    NoValue(String),
    /// An argument that is not the name of an action.
    #[error("unknown action {0:?}: start and delete are known")]
    Action(String),
    /// Bytes that are no text.
    #[error("argument {0:?} is not UTF-8")]
    NotText(OsString),
    /// A flag that an action cannot do without.
    #[error("flag -{0} is missing: the program is executed by containerd, which gives it")]
    Missing(&'static str),
}

impl CommandLine {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// See [`CommandLineError`].
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CommandLineError> {
        let mut line = Self {
            action: Action::Serve,
            id: String::new(),
            namespace: String::new(),
            address: String::new(),
            bundle: PathBuf::new(),
            socket: PathBuf::new(),
            config: None,
            debug: false,
        };
        let mut arguments = arguments
            .into_iter()
            .map(|argument| argument.into_string().map_err(CommandLineError::NotText));
        while let Some(argument) = arguments.next().transpose()? {
            let Some(flag) = argument.strip_prefix('-') else {
                line.action = match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(CommandLineError::Action(argument)),
                };
                break;
            };
            // One hyphen or two, the value behind an equals sign or as the next argument.
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let switch = value.as_deref() != Some("false");
            let mut value = || match value.clone() {
                Some(value) => Ok(value),
                None => arguments
                    .next()
                    .unwrap_or_else(|| Err(CommandLineError::NoValue(name.to_owned()))),
            };
            match name {
                "id" => line.id = value()?,
                "namespace" => line.namespace = value()?,
                "address" => line.address = value()?,
                "bundle" => line.bundle = value()?.into(),
                "debug" => line.debug = switch,
                "v" | "version" => line.action = Action::Version,
                "info" => line.action = Action::Info,
                "socket" => line.socket = value()?.into(),
                "config" => line.config = Some(value()?.into()),
                // Events go over containerd's ttrpc socket.
                "publish-binary" => drop(value()?),
                _ => return Err(CommandLineError::Flag(argument)),
            }
        }
        line.check()
    }

    fn check(self) -> Result<Self, CommandLineError> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(self);
        }
        for (name, value) in [
            ("id", &self.id),
            ("namespace", &self.namespace),
            ("address", &self.address),
        ] {
            if value.is_empty() {
                return Err(CommandLineError::Missing(name));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<CommandLine, CommandLineError> {
        CommandLine::parse(line.split_ascii_whitespace().map(OsString::from))
    }

    #[test]
    fn what_containerd_gives_is_understood() {
        let line = parse(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id c1 -debug start",
        )
        .expect("valid");
        assert_eq!(line.action, Action::Start);
        assert_eq!((line.id.as_str(), line.namespace.as_str()), ("c1", "k8s.io"));
        assert!(line.debug && line.bundle.as_os_str().is_empty());
        let line =
            parse("--namespace=n --address=/a --id=c1 --debug=false --bundle /b delete").expect("valid");
        assert_eq!(line.action, Action::Delete);
        assert_eq!(line.bundle, PathBuf::from("/b"));
        assert!(!line.debug);
        assert_eq!(parse("-v").expect("valid").action, Action::Version);
        assert_eq!(parse("-info").expect("valid").action, Action::Info);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, error) in [
            ("start", CommandLineError::Missing("id")),
            ("-id", CommandLineError::NoValue("id".to_owned())),
            ("-frobnicate", CommandLineError::Flag("-frobnicate".to_owned())),
            ("stop", CommandLineError::Action("stop".to_owned())),
        ] {
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(arguments in prop::collection::vec("-{0,3}[a-z=]{0,8}|\\PC{0,4}", 0..6)) {
            let _ = CommandLine::parse(arguments.into_iter().map(OsString::from));
        }
    }
}
