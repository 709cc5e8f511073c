//! How containerd names the streams of a process.

use std::path::PathBuf;

/// A process's streams, as containerd names them; empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamNames {
    /// A named pipe.
    pub stdin: String,
    /// A named pipe, a file or a logger.
    pub stdout: String,
    /// The same; nothing with a terminal.
    pub stderr: String,
    /// The process has a terminal, whose bytes are on input and output.
    pub terminal: bool,
}

/// Where a stream leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    Null,
    /// A named pipe that exists.
    Pipe(PathBuf),
    /// A file that is appended to, and made with the folders above it where it does not exist.
    File(PathBuf),
    /// A program that reads it.
    Logger {
        /// The program.
        path: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
    },
}

/// A name that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A scheme that is not known.
    #[error("stream {0:?}: fifo, file and binary are known schemes")]
    Scheme(String),
    /// No absolute path.
    #[error("stream {0:?}: the path is to be absolute")]
    Path(String),
    /// A percent sign that is not followed by two digits, or bytes that are no text.
    #[error("stream {0:?}: not a valid URI")]
    Uri(String),
}

impl Target {
    /// Where a name leads.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn of(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = name.split_once("://") else {
            return Ok(Self::Pipe(absolute(name, name.to_owned())?));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let decoded = |text: &str| decode(text).ok_or_else(|| NameError::Uri(name.to_owned()));
        let path = absolute(name, decoded(path)?)?;
        match scheme {
            "fifo" => Ok(Self::Pipe(path)),
            "file" => Ok(Self::File(path)),
            "binary" => {
                let mut arguments = Vec::new();
                for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    arguments.push(decoded(&key.replace('+', " "))?);
                    if !value.is_empty() {
                        arguments.push(decoded(&value.replace('+', " "))?);
                    }
                }
                Ok(Self::Logger { path, arguments })
            }
            _ => Err(NameError::Scheme(name.to_owned())),
        }
    }
}

fn absolute(name: &str, path: String) -> Result<PathBuf, NameError> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(path.into())
    } else {
        Err(NameError::Path(name.to_owned()))
    }
}

/// A text with its percent signs resolved (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lead_where_containerd_means() {
        let pipe = |path: &str| Ok(Target::Pipe(path.into()));
        assert_eq!(Target::of(""), Ok(Target::Null));
        assert_eq!(Target::of("/run/f/stdin"), pipe("/run/f/stdin"));
        assert_eq!(Target::of("/odd%20name"), pipe("/odd%20name"));
        assert_eq!(Target::of("fifo:///run/a%20b"), pipe("/run/a b"));
        assert_eq!(
            Target::of("file:///var/log/x"),
            Ok(Target::File("/var/log/x".into()))
        );
        assert_eq!(
            Target::of("binary:///bin/log?--id=c%3D1&-v&x=a+b&"),
            Ok(Target::Logger {
                path: "/bin/log".into(),
                arguments: ["--id", "c=1", "-v", "x", "a b"].map(str::to_owned).into(),
            })
        );
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["npipe:///x", "file://x", "relative", "file:///a%2", "file:///%ff"] {
            Target::of(name).expect_err(name);
        }
    }

    proptest! {
        #[test]
        fn any_name_is_understood_or_refused(name in "((file|binary|fifo)://)?/?[a-z%?&=+0-9]{0,12}|\\PC{0,12}") {
            let _ = Target::of(&name);
        }
    }
}
