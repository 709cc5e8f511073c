//! Tells the guest when the content of a volume on the host has been replaced: see [`crate::oci::Volume`].

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    oci::{Bundle, DATA, Volume},
    readiness::watch,
};

/// The volumes of a container, being watched.
pub struct Watcher<'a> {
    volumes: Vec<(WatchDescriptor, &'a Volume)>,
    /// Where changes are read, and what tells that there are some.
    changes: Option<(Inotify, AsyncFd<OwnedFd>)>,
}

impl<'a> Watcher<'a> {
    /// Starts to watch those of the bundle. Called inside a tokio runtime.
    ///
    /// # Errors
    /// The host has no watches left.
    pub fn start(bundle: &'a Bundle) -> io::Result<Self> {
        if bundle.volumes.is_empty() {
            return Ok(Self {
                volumes: Vec::new(),
                changes: None,
            });
        }
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watched = |volume: &'a Volume| -> io::Result<_> {
            Ok((
                inotify.add_watch(&volume.path, AddWatchFlags::IN_MOVED_TO)?,
                volume,
            ))
        };
        let volumes = bundle.volumes.iter().map(watched).collect::<io::Result<_>>()?;
        let readiness = watch(inotify.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self {
            volumes,
            changes: Some((inotify, readiness)),
        })
    }

    /// The volumes whose content has been replaced since the last time; waits until there is one.
    pub async fn changed(&self) -> Vec<&'a Volume> {
        let Some((inotify, readiness)) = &self.changes else {
            return std::future::pending().await;
        };
        loop {
            let read = readiness.async_io(Interest::READABLE, |_| Ok(inotify.read_events()?));
            let events = match read.await {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!(%error, "volumes are not watched any more");
                    return std::future::pending().await;
                }
            };
            let is_turned = |watch: &WatchDescriptor| {
                events
                    .iter()
                    .any(|event| event.wd == *watch && event.name.as_ref().is_some_and(|name| name == DATA))
            };
            let turned = self.volumes.iter().filter(|(watch, _)| is_turned(watch));
            let turned: Vec<_> = turned.map(|(_, volume)| *volume).collect();
            if !turned.is_empty() {
                return turned;
            }
        }
    }
}
