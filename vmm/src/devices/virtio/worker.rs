//! A thread that serves the queues of one device, for devices whose work blocks on the host.

use std::io;
use std::num::Wrapping;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{QueueOwnedT, QueueT};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::buffers::Chain;
use super::device::{ActivateError, Activation, ActiveQueue, Interrupt};
use crate::jail::Thread;
use crate::memory::GuestMemory;

/// What a device does with a request, apart from how requests arrive.
pub trait Service {
    /// Serves one request and returns how many bytes it wrote into the request's buffers, counted from the first
    /// buffer that the device may write.
    fn serve(&mut self, memory: &GuestMemory, chain: Chain<'_>) -> u32;
}

/// The thread. Dropping it stops the thread after the request that it is serving.
pub struct Worker {
    events: Arc<Events>,
    stop: EventFd,
    /// How its queues come to it, once.
    queues: Option<Sender<Activation>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread of that name, which makes its service by calling `make`, confines itself to the system calls of
    /// `kind`, and waits for the driver. Returns when it does. It is started with its device and not by the driver: a
    /// virtual processor may not start threads, and its list is not one that a worker could live with.
    ///
    /// # Errors
    /// When the thread, its descriptors or its service cannot be made, or it cannot be confined.
    pub fn start<S, F>(name: &str, kind: Thread, make: F) -> io::Result<Self>
    where
        S: Service,
        F: FnOnce() -> io::Result<S> + Send + 'static,
    {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let events = Arc::new(Events::new(&stop)?);
        let (ready, started) = sync_channel(1);
        let (queues, activated) = channel();
        let theirs = Arc::clone(&events);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let made = make().and_then(|service| kind.confine().map(|()| service));
            let (service, outcome) = match made {
                Ok(service) => (Some(service), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // The receiver waits for exactly this message.
            let _ = ready.send(outcome);
            if let Some(service) = service
                && let Ok(activation) = activated.recv()
            {
                Queues::new(activation, service).run(&theirs);
            }
        })?;
        let worker = Worker {
            events,
            stop,
            queues: Some(queues),
            thread: Some(thread),
        };
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
        Ok(worker)
    }

    /// Has the thread serve the driver's queues from now on. Once.
    ///
    /// # Errors
    /// It serves a driver already, the host refuses to watch for the driver's kicks, or the thread has ended.
    pub fn serve(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let host = |what: &'static str| move |error| ActivateError::Host(what, error);
        let again = || host("worker")(io::ErrorKind::AlreadyExists.into());
        let queues = self.queues.take().ok_or_else(again)?;
        for (token, active) in (0..).zip(&activation.queues) {
            self.events
                .add(token, &active.kick)
                .map_err(host("worker's events"))?;
        }
        let ended = |_| host("worker")(io::Error::other("the thread ended"));
        queues.send(activation).map_err(ended)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The counter cannot be full: this is its only write.
        let _ = self.stop.write(1);
        self.queues = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

/// The descriptors that a worker waits for. Edge-triggered, so that an event need not be read to be over.
struct Events(Epoll);

impl Events {
    const STOP: u64 = u64::MAX;

    fn new(stop: &EventFd) -> io::Result<Self> {
        let events = Events(Epoll::new()?);
        events.add(Self::STOP, stop)?;
        Ok(events)
    }

    fn add(&self, token: u64, event: &EventFd) -> io::Result<()> {
        let interest = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, token);
        self.0.ctl(ControlOperation::Add, event.as_raw_fd(), interest)
    }

    /// Waits for the next event. `None` when the worker should stop.
    fn wait(&self) -> io::Result<Option<u64>> {
        let mut events = [EpollEvent::default()];
        loop {
            match self.0.wait(-1, &mut events) {
                Ok(_) => {
                    let token = events[0].data();
                    return Ok((token != Self::STOP).then_some(token));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The queues and the service that takes their requests.
struct Queues<S> {
    memory: GuestMemory,
    queues: Vec<ActiveQueue>,
    interrupt: Arc<Interrupt>,
    service: S,
}

impl<S: Service> Queues<S> {
    fn new(activation: Activation, service: S) -> Self {
        let Activation {
            memory,
            features,
            mut queues,
            interrupt,
        } = activation;
        for active in &mut queues {
            active
                .queue
                .set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        }
        Queues {
            memory,
            queues,
            interrupt,
            service,
        }
    }

    /// Serves until asked to stop, or until the driver breaks a ring: what is in it then has no meaning any more.
    fn run(&mut self, events: &Events) {
        // A kick that came before the thread is among the events already.
        while let Ok(Some(token)) = events.wait() {
            let Ok(index) = usize::try_from(token) else { return };
            if self.drain(index).is_err() {
                return;
            }
        }
    }

    /// Serves what is in a queue. The driver hears of a batch at a time: of all the requests that were there when
    /// the device looked.
    fn drain(&mut self, index: usize) -> Result<(), virtio_queue::Error> {
        let Some(ActiveQueue { queue, .. }) = self.queues.get_mut(index) else {
            return Ok(());
        };
        loop {
            queue.disable_notification(&self.memory)?;
            let pending = queue.avail_idx(&self.memory, Ordering::Acquire)? - Wrapping(queue.next_avail());
            for _ in 0..pending.0 {
                // `iter` checks the indices, on which `pop_descriptor_chain` keeps silent.
                let Some(chain) = queue.iter(&self.memory)?.next() else {
                    break;
                };
                let head = chain.head_index();
                let written = self.service.serve(&self.memory, chain);
                queue.add_used(&self.memory, head, written)?;
            }
            if pending.0 > 0 && queue.needs_notification(&self.memory)? {
                self.interrupt.used_ring();
            }
            if !queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
