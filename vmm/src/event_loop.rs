//! The VMM's one event loop: control, vsock, net, rng, balloon and the console share it, on the main thread.

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberId, SubscriberOps};

/// Something that waits for events of its own descriptors.
pub type Handler = Box<dyn MutEventSubscriber + Send>;

/// The event loop, run by the main thread.
pub struct EventLoop(EventManager<Handler>);

/// The way into the loop for other threads: a device whose driver has become ready, on a virtual processor's thread,
/// hands its handler over.
#[derive(Clone)]
pub struct LoopHandle(RemoteEndpoint<Handler>);

/// The event loop could not be made or does not run any more.
#[derive(Debug, thiserror::Error)]
#[error("event loop: {0}")]
pub struct EventLoopError(#[from] event_manager::Error);

impl EventLoop {
    /// A loop without handlers.
    pub fn new() -> Result<Self, EventLoopError> {
        Ok(EventLoop(EventManager::new()?))
    }

    /// The way in for other threads.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle(self.0.remote_endpoint())
    }

    /// Adds a handler from the loop's own thread.
    pub fn add(&mut self, handler: Handler) -> SubscriberId {
        self.0.add_subscriber(handler)
    }

    /// Waits for the next events and has them handled.
    pub fn turn(&mut self) -> Result<(), EventLoopError> {
        self.0.run()?;
        Ok(())
    }

    /// Turns one for ever on a thread of its own, and gives the way to it.
    #[cfg(test)]
    pub fn on_its_own_thread() -> LoopHandle {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut event_loop = Self::new().unwrap();
            send.send(event_loop.handle()).unwrap();
            loop {
                event_loop.turn().unwrap();
            }
        });
        receive.recv().unwrap()
    }
}

impl LoopHandle {
    /// Adds a handler and returns when the loop has taken it. Must not be called on the loop's own thread.
    pub fn add(&self, handler: Handler) -> Result<SubscriberId, EventLoopError> {
        Ok(self
            .0
            .call_blocking(move |ops| Ok::<_, event_manager::Error>(ops.add_subscriber(handler)))?)
    }
}
