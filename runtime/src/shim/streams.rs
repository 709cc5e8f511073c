//! The host's ends of a process's streams, for its stand-in.
//!
//! A named pipe is opened for reading and writing: it can be opened before containerd has opened it, and neither end breaks
//! when containerd is restarted. Who reads it finds its end when the stand-in has gone, which is the only one to hold it.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use super::{
    logger::{Logger, LoggerError, Origin},
    reaper::Reaper,
    stream_names::{NameError, StreamNames, Target},
};

/// Opened streams.
#[derive(Debug)]
pub struct Streams {
    /// For the stand-in: input, output, errors.
    pub descriptors: [OwnedFd; 3],
    /// What else there is of them.
    pub rest: Rest,
}

/// What the shim keeps of a process's streams.
#[derive(Debug, Default)]
pub struct Rest {
    /// Keeps the input from its end, though containerd goes and comes.
    pub input: Option<OwnedFd>,
    /// Nothing more comes from containerd, which may be known before the input has been opened.
    pub input_is_over: bool,
    /// The programs that read the output.
    pub loggers: Vec<Logger>,
}

/// Why streams cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Input can come from a pipe only.
    #[error("stream {0:?}: input comes from a named pipe only")]
    Input(String),
    /// The file system said no.
    #[error("stream {}: {source}", path.display())]
    Io {
        /// The pipe or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A logger.
    #[error(transparent)]
    Logger(#[from] LoggerError),
}

impl Streams {
    /// Opens them, and starts the loggers among them.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn open(
        names: &StreamNames,
        origin: Origin<'_>,
        reaper: &std::sync::Arc<Reaper>,
    ) -> Result<Self, StreamError> {
        let mut rest = Rest::default();
        let stdin = match Target::of(&names.stdin)? {
            Target::Null => null()?,
            Target::Pipe(path) => {
                rest.input = Some(open(&path, OpenOptions::new().read(true).write(true))?);
                open(&path, OpenOptions::new().read(true))?
            }
            _ => return Err(StreamError::Input(names.stdin.clone())),
        };
        let targets = [Target::of(&names.stdout)?, Target::of(&names.stderr)?];
        let [stdout, stderr] = match targets {
            // One program reads both where it is named for both.
            [Target::Logger { path, arguments }, errors]
                if errors == Target::Null || names.stdout == names.stderr =>
            {
                let (logger, outputs) = Logger::start(&path, &arguments, origin, reaper).await?;
                rest.loggers.push(logger);
                outputs
            }
            [output, errors] => {
                let output = open_output(output, origin, reaper, &mut rest).await?;
                [output, open_output(errors, origin, reaper, &mut rest).await?]
            }
        };
        let descriptors = [stdin, stdout, stderr];
        Ok(Self { descriptors, rest })
    }
}

async fn open_output(
    target: Target,
    origin: Origin<'_>,
    reaper: &std::sync::Arc<Reaper>,
    rest: &mut Rest,
) -> Result<OwnedFd, StreamError> {
    match target {
        Target::Null => null(),
        Target::Pipe(path) => open(&path, OpenOptions::new().read(true).write(true)),
        Target::File(path) => {
            if let Some(folder) = path.parent() {
                let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
                made.map_err(|source| StreamError::Io {
                    path: folder.to_owned(),
                    source,
                })?;
            }
            open(&path, OpenOptions::new().create(true).append(true).mode(0o644))
        }
        Target::Logger { path, arguments } => {
            let (logger, [output, _]) = Logger::start(&path, &arguments, origin, reaper).await?;
            rest.loggers.push(logger);
            Ok(output)
        }
    }
}

fn null() -> Result<OwnedFd, StreamError> {
    open(Path::new("/dev/null"), OpenOptions::new().read(true).write(true))
}

fn open(path: &Path, options: &OpenOptions) -> Result<OwnedFd, StreamError> {
    let opened = options.open(path).map(File::into);
    opened.map_err(|source| StreamError::Io {
        path: path.to_owned(),
        source,
    })
}
