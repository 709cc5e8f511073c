//! A process that containerd knows: a container's first one, or a further one.

use std::sync::Mutex;

use containerd_shim_protos::api::Status;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::{error::Error, lock, reaper::End, stream_names::StreamNames, streams::Rest};

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Described only: a further process before its start.
    Added,
    /// Its stand-in is there, the program is not started: a first process before its start.
    Created {
        /// The stand-in's.
        pid: i32,
    },
    /// The program runs.
    Running {
        /// The stand-in's.
        pid: i32,
    },
    /// It has ended.
    Ended {
        /// The stand-in's, while there was one.
        pid: i32,
        /// How and when.
        end: End,
    },
}

impl Progress {
    /// The stand-in's pid; zero if there has never been one.
    pub fn pid(self) -> u32 {
        let pid = match self {
            Self::Added => 0,
            Self::Created { pid } | Self::Running { pid } | Self::Ended { pid, .. } => pid,
        };
        pid.unsigned_abs()
    }

    /// How it ended, if it has.
    pub fn end(self) -> Option<End> {
        match self {
            Self::Ended { end, .. } => Some(end),
            _ => None,
        }
    }

    /// As containerd calls it.
    pub fn status(self) -> Status {
        match self {
            Self::Added | Self::Created { .. } => Status::CREATED,
            Self::Running { .. } => Status::RUNNING,
            Self::Ended { .. } => Status::STOPPED,
        }
    }

    /// The same as a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added | Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Ended { .. } => "stopped",
        }
    }
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// How containerd names its streams.
    pub streams: StreamNames,
    /// Held while what happens is told, so that an end is not told before the beginning.
    pub order: AsyncMutex<()>,
    progress: watch::Sender<Progress>,
    rest: Mutex<Rest>,
}

impl Process {
    /// A process of which nothing runs yet.
    pub fn new(streams: StreamNames, progress: Progress, rest: Rest) -> Self {
        Self {
            streams,
            order: AsyncMutex::new(()),
            progress: watch::Sender::new(progress),
            rest: Mutex::new(rest),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// It has come so far.
    pub fn advance(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// Keeps what the shim holds of its streams.
    pub fn keep(&self, rest: Rest) {
        let mut kept = lock(&self.rest);
        let is_over = kept.input_is_over;
        *kept = rest;
        if is_over {
            kept.input = None;
        }
    }

    /// Waits for its end.
    pub async fn ended(&self) -> End {
        let mut progress = self.progress.subscribe();
        loop {
            if let Some(end) = progress.borrow_and_update().end() {
                return end;
            }
            // The sender is in `self`, so it cannot have gone.
            let _ = progress.changed().await;
        }
    }

    /// Lets its input end when everybody else who could write it has.
    pub fn close_input(&self) {
        let mut rest = lock(&self.rest);
        rest.input = None;
        rest.input_is_over = true;
    }

    /// Waits until the programs that read its output have taken everything.
    pub async fn finish_loggers(&self) {
        let loggers = std::mem::take(&mut lock(&self.rest).loggers);
        for logger in loggers {
            logger.finish().await;
        }
    }

    /// An error unless its program runs, or is about to.
    ///
    /// # Errors
    /// [`Error::Finished`]; [`Error::Status`] of a process that is only described.
    pub fn ensure_alive(&self, action: &'static str, what: &str) -> Result<(), Error> {
        match self.progress() {
            Progress::Created { .. } | Progress::Running { .. } => Ok(()),
            Progress::Ended { .. } => Err(Error::Finished(what.to_owned())),
            progress @ Progress::Added => Err(Error::Status {
                action,
                what: what.to_owned(),
                status: progress.word(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn input_that_is_over_before_it_is_opened_ends() {
        let process = Process::new(StreamNames::default(), Progress::Added, Rest::default());
        process.close_input();
        process.keep(Rest {
            input: Some(File::open("/dev/null").expect("a file").into()),
            ..Rest::default()
        });
        assert!(lock(&process.rest).input.is_none());
    }
}
