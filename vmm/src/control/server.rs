//! Takes the requests of the control socket, on the event loop.
//!
//! Its system calls: accept4, recvmsg, sendto, close, epoll_ctl, read (the pause's event), tgkill and futex
//! (pausing), ioctl, mmap and clone (processors), fstat, lseek and fcntl (images), write (the interrupt of memory). What it may
//! call is in `vmm/seccomp/lists.toml`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::client::{Awaited, Client, LONGEST_REQUEST, Line};
use super::{Request, Response};
use crate::console::Console;
use crate::devices::virtio::mem::Target;
use crate::devices::virtio::net::MacAddress;
use crate::end::End;
use crate::failure::with_causes;
use crate::growth::{Growth, MemorySize};
use crate::report::Outcome;
use crate::vcpus::Vcpus;
use crate::wiring::DeviceError;

/// The most clients at a time; others wait until one leaves.
const MOST_CLIENTS: usize = 16;

/// What requests are about.
pub struct Guest {
    /// Its processors.
    pub vcpus: Vcpus,
    /// What it has printed.
    pub console: Console,
    /// How it ends.
    pub end: End,
    /// By which devices come and go.
    pub hotplug: Box<dyn Hotplug>,
    /// How much memory it has, and is to have.
    pub memory: Growth,
    /// When it began.
    pub started: Instant,
}

/// Puts devices into slots of a guest that runs, and takes disks out again. The answer is the slot's number.
pub trait Hotplug: Send {
    /// A network device on a tap.
    fn attach_network(&mut self, tap: OwnedFd, mac: MacAddress, mtu: u16) -> Result<usize, DeviceError>;

    /// A memory device, which writes to `changed` whenever the guest has taken memory or given it back.
    fn plug_memory(&mut self, changed: EventFd) -> Result<(usize, Target), DeviceError>;

    /// A disk over an image, or the disk of that name that is there already.
    fn attach_disk(&mut self, id: &str, image: File, read_only: bool) -> Result<usize, DeviceError>;

    /// Takes a disk out that has come while the guest ran.
    fn detach_disk(&mut self, id: &str) -> Result<(), DeviceError>;

    /// The names of the disks that have come while the guest ran, and are there.
    fn attached_disks(&self) -> Vec<String>;
}

/// The control socket.
pub struct ControlServer {
    listener: UnixListener,
    clients: BTreeMap<RawFd, Client>,
    guest: Guest,
}

/// A client is of no use any more.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Gone
    }
}

impl ControlServer {
    /// A server on a listening socket.
    pub fn new(listener: OwnedFd, guest: Guest) -> io::Result<Self> {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(ControlServer {
            listener,
            clients: BTreeMap::new(),
            guest,
        })
    }

    /// Takes new clients while there is room for them; others wait to be accepted.
    fn accept(&mut self, ops: &mut EventOps) {
        while self.clients.len() < MOST_CLIENTS
            && let Ok((stream, _)) = self.listener.accept()
        {
            if let Ok(client) = Client::new(stream)
                && ops.add(Events::new(&client, client.interest())).is_ok()
            {
                self.clients.insert(client.as_raw_fd(), client);
            }
        }
        self.watch_listener(ops);
    }

    fn watch_listener(&self, ops: &mut EventOps) {
        let has_room = self.clients.len() < MOST_CLIENTS;
        let interest = if has_room { EventSet::IN } else { EventSet::empty() };
        // The listener is in the set, or the set is gone with the loop.
        let _ = ops.modify(Events::new(&self.listener, interest));
    }

    fn serve_client(&mut self, events: Events, ops: &mut EventOps) {
        let Some(client) = self.clients.get_mut(&events.fd()) else {
            return;
        };
        let served = serve(client, &mut self.guest, events.event_set());
        if served.is_ok() && ops.modify(Events::new(client, client.interest())).is_ok() {
            self.settle(ops);
        } else {
            // The descriptor is in the set, or the set is gone with the loop.
            let _ = ops.remove(Events::empty(client));
            self.clients.remove(&events.fd());
            self.watch_listener(ops);
        }
    }

    /// What tells that it may be there what clients wait for.
    fn awaited_events(&self) -> [&EventFd; 2] {
        [self.guest.vcpus.gate().all_wait(), self.guest.memory.changed()]
    }

    /// Answers those who wait for what is there now.
    fn settle(&mut self, ops: &mut EventOps) {
        let guest = &mut self.guest;
        self.clients.retain(|_, client| {
            let Some(response) = client.awaits.and_then(|awaited| settled(awaited, guest)) else {
                return true;
            };
            client.awaits = None;
            // Requests that came while it waited are in its buffer.
            let stays = client.respond(&response).is_ok() && answer_lines(client, guest).is_ok();
            if stays && ops.modify(Events::new(client, client.interest())).is_ok() {
                return true;
            }
            let _ = ops.remove(Events::empty(client));
            false
        });
        self.watch_listener(ops);
    }
}

fn serve(client: &mut Client, guest: &mut Guest, events: EventSet) -> Result<(), Gone> {
    client.flush()?;
    let more = !events.contains(EventSet::IN) || client.receive()?;
    answer_lines(client, guest)?;
    let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR) && !events.contains(EventSet::IN);
    if more && !hung_up { Ok(()) } else { Err(Gone) }
}

fn answer_lines(client: &mut Client, guest: &mut Guest) -> Result<(), Gone> {
    while client.is_ready()
        && let Some(line) = client.next_line()
    {
        let response = match line {
            Line::TooLong => Some(error(&format!(
                "the request is longer than {LONGEST_REQUEST} bytes"
            ))),
            Line::Complete(line) => match serde_json::from_slice(&line) {
                Ok(request) => answer(request, client, guest),
                Err(cause) => Some(error(&format!("not a request: {cause}"))),
            },
        };
        if let Some(response) = response {
            client.respond(&response)?;
        }
        // A descriptor that the request did not ask for is closed.
        drop(client.take_attached());
    }
    Ok(())
}

/// What is answered to a client that waits, if that is known now.
fn settled(awaited: Awaited, guest: &Guest) -> Option<Response> {
    match awaited {
        Awaited::Pause => {
            let gate = guest.vcpus.gate();
            if gate.is_everyone_waiting() {
                return Some(Response::Done);
            }
            let resumed = || error("another client resumed the guest before it was paused");
            (!gate.is_closed()).then(resumed)
        }
        Awaited::Memory(known_mib) => {
            let size = guest.memory.size();
            let is_there = size.present_mib > known_mib || size.present_mib >= size.wanted_mib;
            is_there.then(|| size.into())
        }
    }
}

/// What is answered to a client, which waits if that is nothing yet.
fn answer_when_settled(awaited: Awaited, client: &mut Client, guest: &Guest) -> Option<Response> {
    let response = settled(awaited, guest);
    client.awaits = response.is_none().then_some(awaited);
    response
}

/// What a request is answered, or nothing when that is known later.
fn answer(request: Request, client: &mut Client, guest: &mut Guest) -> Option<Response> {
    Some(match request {
        Request::Pause {} => {
            guest.vcpus.pause();
            return answer_when_settled(Awaited::Pause, client, guest);
        }
        Request::Resume {} => {
            guest.vcpus.resume();
            Response::Done
        }
        Request::AddVcpus { count } => match guest.vcpus.grow(count) {
            Ok(count) => Response::VcpusAdded { count },
            Err(cause) => error(&with_causes(&cause)),
        },
        Request::Memory {} => guest.memory.size().into(),
        Request::AddMemory { mib } => match guest.memory.grow(mib, guest.hotplug.as_mut()) {
            Ok(size) => size.into(),
            Err(cause) => error(&with_causes(&cause)),
        },
        Request::AwaitMemory { known_mib } => {
            return answer_when_settled(Awaited::Memory(known_mib), client, guest);
        }
        Request::Stop {} => {
            guest.end.reach(Outcome::Stopped);
            Response::Done
        }
        Request::Metrics {} => Response::Metrics(metrics(guest)),
        Request::Console {} => Response::Console {
            lines: guest.console.lines(),
        },
        Request::AttachNetwork { mac, mtu } => {
            let attach = |tap: File| guest.hotplug.attach_network(tap.into(), mac, mtu);
            attached(client.take_attached(), attach)
        }
        Request::AttachBlock { id, read_only } => {
            let attach = |image| guest.hotplug.attach_disk(&id, image, read_only);
            attached(client.take_attached(), attach)
        }
        Request::DetachBlock { id } => match guest.hotplug.detach_disk(&id) {
            Ok(()) => Response::Done,
            Err(cause) => error(&with_causes(&cause)),
        },
    })
}

/// What comes of attaching a device with the descriptor that came with the request.
fn attached(descriptor: Option<File>, attach: impl FnOnce(File) -> Result<usize, DeviceError>) -> Response {
    let Some(descriptor) = descriptor else {
        return error("no descriptor came with the request");
    };
    match attach(descriptor) {
        Ok(slot) => Response::Attached { slot },
        Err(cause) => error(&with_causes(&cause)),
    }
}

impl From<MemorySize> for Response {
    fn from(size: MemorySize) -> Self {
        Response::Memory {
            present_mib: size.present_mib,
            wanted_mib: size.wanted_mib,
            most_mib: size.most_mib,
            slot: size.slot,
        }
    }
}

fn metrics(guest: &Guest) -> serde_json::Map<String, serde_json::Value> {
    let mut metrics = serde_json::Map::new();
    let uptime = u64::try_from(guest.started.elapsed().as_micros()).unwrap_or(u64::MAX);
    metrics.insert("uptime_us".to_owned(), uptime.into());
    metrics.insert("vcpus".to_owned(), guest.vcpus.metrics());
    metrics.insert(
        super::ATTACHED_DISKS.to_owned(),
        guest.hotplug.attached_disks().into(),
    );
    metrics
}

fn error(message: &str) -> Response {
    Response::Error {
        message: message.to_owned(),
    }
}

impl MutEventSubscriber for ControlServer {
    fn init(&mut self, ops: &mut EventOps) {
        // They fail when the process is out of memory or epoll watches; nobody is served then.
        let _ = ops.add(Events::new(&self.listener, EventSet::IN));
        for event in self.awaited_events() {
            let _ = ops.add(Events::new(event, EventSet::IN));
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let awaited = self
            .awaited_events()
            .into_iter()
            .find(|event| event.as_raw_fd() == events.fd())
            .map(EventFd::read);
        if awaited.is_some() {
            self.settle(ops);
        } else if events.fd() == self.listener.as_raw_fd() {
            self.accept(ops);
        } else {
            self.serve_client(events, ops);
        }
    }
}

#[cfg(test)]
mod tests;
