//! All streams of the device: which packet and which event belongs to which connection, and whose turn it is.
//!
//! Sockets are watched edge-triggered: an event means "look", what was seen is kept in the connection, and nothing
//! is reported again while the guest has no buffers or no credit for it. A socket is watched for space only while
//! there are bytes that it did not take.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Fate, Remains};
use super::host::{Handshake, hand_out, handshake};
use super::packet::{HOST_CID, Header, Op, PORT_ANY, Ports, TYPE_STREAM};
use super::rings::{RxBatch, RxRing};
use super::socket::{HostSocket, Slice};
use crate::memory::GuestMemory;

/// The most connections, unfinished handshakes and closed connections with bytes left, together. What comes beyond
/// is refused.
pub const MAX_STREAMS: usize = 4096;

/// While so many refusals wait for a buffer, no more packets are taken from the guest.
const MAX_REFUSALS: usize = 256;

/// The most packets sent to the guest before others get a turn on the event loop.
const SEND_BUDGET: usize = 512;

/// The most events taken from the sockets before others get a turn on the event loop.
const EVENTS: usize = 64;

/// The first port used for connections that programs on the host open. Ports below are left to well-known services.
const FIRST_PORT: u32 = 1 << 30;

/// The listener's place among the watched descriptors.
const LISTENER: Ports = Ports {
    host: PORT_ANY,
    guest: 0,
};

/// Why sending to the guest stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing is due, or the driver will kick when it has added buffers.
    Idle,
    /// Others should get a turn; more is due.
    More,
}

/// The streams of one guest.
pub struct Streams {
    guest_cid: u64,
    epoll: Epoll,
    listener: UnixListener,
    uplink: Option<OwnedFd>,
    connections: HashMap<Ports, Connection>,
    /// Clients of the listener that have not sent their line, by the host's port that they will have.
    handshakes: HashMap<u32, HostSocket>,
    /// Closed connections with bytes left, by a port that is theirs alone.
    remains: HashMap<u32, Remains>,
    /// The connections that have something to send to the guest, next one first.
    turns: VecDeque<Ports>,
    /// Resets for the guest, oldest first.
    resets: VecDeque<Header>,
    next_port: u32,
    /// Whether the listener could not accept for want of descriptors or memory.
    listener_stuck: bool,
}

impl Streams {
    /// The streams of the guest with this CID. `uplink` is a seqpacket socket.
    pub fn new(guest_cid: u64, listener: UnixListener, uplink: Option<OwnedFd>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new()?;
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        epoll.ctl(
            ControlOperation::Add,
            listener.as_raw_fd(),
            EpollEvent::new(events, token(LISTENER)),
        )?;
        Ok(Streams {
            guest_cid,
            epoll,
            listener,
            uplink,
            connections: HashMap::new(),
            handshakes: HashMap::new(),
            remains: HashMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
            listener_stuck: false,
        })
    }

    /// Whether packets from the guest can be handled: each may need an answer, and answers are not piled up.
    pub fn accept_packets(&self) -> bool {
        self.resets.len() < MAX_REFUSALS
    }

    /// Handles a packet from the guest with its payload, whose size is the header's `len`.
    pub fn on_packet(&mut self, header: &Header, payload: &[Slice]) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID || header.socket_type != TYPE_STREAM
        {
            return self.refuse(header);
        }
        let ports = header.ports();
        let Some(connection) = self.connections.get_mut(&ports) else {
            return match Op::from_wire(header.op) {
                Some(Op::Request) => self.on_request(header),
                _ => self.refuse(header),
            };
        };
        let fate =
            Op::from_wire(header.op).map_or(Fate::Reset, |op| connection.on_packet(op, header, payload));
        self.settle(ports, fate);
    }

    /// Handles a packet from the guest whose payload is not there.
    pub fn on_bad_packet(&mut self, header: &Header) {
        if header.src_cid == self.guest_cid && header.dst_cid == HOST_CID {
            self.end(header.ports());
        }
        self.refuse(header);
    }

    /// Handles what has happened to the sockets.
    pub fn on_events(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        // Fails only when interrupted; the events are reported again.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in events.iter().take(count) {
            let ports = untoken(event.data());
            let events = event.event_set();
            if ports == LISTENER {
                self.accept();
            } else if ports.guest == PORT_ANY {
                self.on_handshake(ports.host, events);
                self.on_remains(ports.host);
            } else if let Some(connection) = self.connections.get_mut(&ports) {
                let fate = connection.on_events(events);
                self.settle(ports, fate);
            }
        }
    }

    /// Sends what is due to the guest, in turn.
    pub fn send(&mut self, rx: &mut RxRing, memory: &GuestMemory) -> Sent {
        let mut batch = RxBatch::default();
        let mut budget = SEND_BUDGET;
        while budget > 0 {
            if let Some(reset) = self.resets.front() {
                rx.take_one(memory, &mut batch);
                if batch.is_empty() {
                    return Sent::Idle;
                }
                rx.send(memory, &batch, reset);
                self.resets.pop_front();
                budget -= 1;
                continue;
            }
            let Some(&ports) = self.turns.front() else {
                return Sent::Idle;
            };
            let Some(connection) = self.connections.get_mut(&ports) else {
                self.turns.pop_front();
                continue;
            };
            let Some(packets) = take_turn(connection, self.guest_cid, rx, memory, &mut batch) else {
                return Sent::Idle;
            };
            budget = budget.saturating_sub(packets);
            connection.queued = false;
            self.turns.pop_front();
            let fate = connection.fate_after_turn();
            self.settle(ports, fate);
        }
        Sent::More
    }

    /// Takes a connection's event to its end: what is due is queued, what is over is removed.
    fn settle(&mut self, ports: Ports, fate: Fate) {
        match (fate, self.connections.get_mut(&ports)) {
            (Fate::Open, Some(connection)) => {
                if connection.watches_space != connection.has_backlog() {
                    connection.watches_space = connection.has_backlog();
                    let event = watch(ports, connection.watches_space);
                    // The socket is in the set, and changing its entry needs no memory.
                    let _ = self
                        .epoll
                        .ctl(ControlOperation::Modify, connection.as_raw_fd(), event);
                }
                if !connection.queued && connection.has_turn() {
                    connection.queued = true;
                    self.turns.push_back(ports);
                }
            }
            (Fate::Reset, _) => {
                self.end(ports);
                self.resets
                    .push_back(Header::to_guest(self.guest_cid, ports, Op::Reset));
            }
            (Fate::Closed, _) => self.end(ports),
            (Fate::Open, None) => {}
        }
    }

    /// Removes a connection. Closing its socket waits for the last bytes to be taken.
    fn end(&mut self, ports: Ports) {
        let Some(connection) = self.connections.remove(&ports) else {
            return;
        };
        if connection.queued {
            self.turns.retain(|&other| other != ports);
        }
        if let Some(remains) = connection.into_remains() {
            let port = self.free_port();
            let event = watch(
                Ports {
                    host: port,
                    guest: PORT_ANY,
                },
                true,
            );
            if self
                .epoll
                .ctl(ControlOperation::Modify, remains.as_raw_fd(), event)
                .is_ok()
            {
                self.remains.insert(port, remains);
            }
        }
        self.unstick_listener();
    }

    fn refuse(&mut self, header: &Header) {
        if Op::from_wire(header.op) != Some(Op::Reset) {
            self.resets.push_back(header.refusal(self.guest_cid));
        }
    }

    /// The guest opens a connection.
    fn on_request(&mut self, header: &Header) {
        let ports = header.ports();
        let named = ports.host != PORT_ANY && ports.guest != PORT_ANY;
        let socket = match &self.uplink {
            Some(uplink) if named && self.len() < MAX_STREAMS => hand_out(uplink, ports.host).ok(),
            _ => None,
        };
        match socket {
            Some(socket) => {
                let connection = Connection::accepted(header, socket);
                self.begin(ControlOperation::Add, ports, connection);
            }
            None => self.refuse(header),
        }
    }

    fn begin(&mut self, operation: ControlOperation, ports: Ports, connection: Connection) {
        let watched = self
            .epoll
            .ctl(operation, connection.as_raw_fd(), watch(ports, false));
        self.connections.insert(ports, connection);
        self.settle(ports, if watched.is_ok() { Fate::Open } else { Fate::Reset });
    }

    /// Accepts clients of the listener until none is left.
    fn accept(&mut self) {
        self.listener_stuck = false;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.greet(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.listener_stuck = true;
                    return;
                }
            }
        }
    }

    /// A stream has gone: there may be a descriptor for a client of the listener now.
    fn unstick_listener(&mut self) {
        if self.listener_stuck {
            self.accept();
        }
    }

    fn greet(&mut self, stream: UnixStream) {
        if self.len() >= MAX_STREAMS {
            return;
        }
        let port = self.free_port();
        let socket = HostSocket::new(stream);
        match handshake(&socket) {
            Handshake::Connect(guest) => {
                self.connect(ControlOperation::Add, Ports { host: port, guest }, socket);
            }
            Handshake::Incomplete => {
                let event = watch(
                    Ports {
                        host: port,
                        guest: PORT_ANY,
                    },
                    false,
                );
                if self
                    .epoll
                    .ctl(ControlOperation::Add, socket.as_raw_fd(), event)
                    .is_ok()
                {
                    self.handshakes.insert(port, socket);
                }
            }
            Handshake::Refused => {}
        }
    }

    fn on_handshake(&mut self, port: u32, events: EventSet) {
        let Some(socket) = self.handshakes.remove(&port) else {
            return;
        };
        let over = events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR);
        match handshake(&socket) {
            Handshake::Connect(guest) => {
                self.connect(ControlOperation::Modify, Ports { host: port, guest }, socket);
            }
            Handshake::Incomplete if !over => {
                self.handshakes.insert(port, socket);
            }
            Handshake::Incomplete | Handshake::Refused => {
                drop(socket);
                self.unstick_listener();
            }
        }
    }

    /// A program on the host asks for a connection. The ports are taken only if the guest has made them so: it then
    /// has to live with a refusal.
    fn connect(&mut self, operation: ControlOperation, ports: Ports, socket: HostSocket) {
        if !self.connections.contains_key(&ports) {
            self.begin(operation, ports, Connection::requested(ports, socket));
        }
    }

    fn on_remains(&mut self, port: u32) {
        if self
            .remains
            .get_mut(&port)
            .is_some_and(|remains| !remains.flush())
        {
            self.remains.remove(&port);
            self.unstick_listener();
        }
    }

    /// A port that no handshake and no closed connection has. There are fewer of them than ports.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port + 1 == PORT_ANY {
                FIRST_PORT
            } else {
                port + 1
            };
            if !self.handshakes.contains_key(&port) && !self.remains.contains_key(&port) {
                return port;
            }
        }
    }

    fn len(&self) -> usize {
        self.connections.len() + self.handshakes.len() + self.remains.len()
    }
}

impl AsRawFd for Streams {
    /// Readable when [`Streams::on_events`] has something to do.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

#[cfg(test)]
impl Streams {
    /// The number of streams, after a check that all limits hold and that the lists agree with each other.
    pub fn checked_len(&self) -> usize {
        assert!(self.len() <= MAX_STREAMS);
        assert!(self.resets.len() <= MAX_REFUSALS + MAX_STREAMS);
        let queued = self
            .connections
            .values()
            .filter(|connection| connection.queued)
            .count();
        assert_eq!(queued, self.turns.len());
        for (&ports, connection) in &self.connections {
            assert_eq!(connection.queued, self.turns.contains(&ports));
            assert!(connection.queued || !connection.has_turn());
            assert_eq!(connection.watches_space, connection.has_backlog());
        }
        self.len()
    }
}

/// Sends the next bytes of a connection, or the next packet without any. Returns the number of packets, or `None`
/// when the guest has no buffer for it.
fn take_turn<'m>(
    connection: &mut Connection,
    guest_cid: u64,
    rx: &mut RxRing,
    memory: &'m GuestMemory,
    batch: &mut RxBatch<'m>,
) -> Option<usize> {
    if let Some(appetite) = connection.appetite() {
        rx.take_for(memory, appetite, batch);
        if batch.is_empty() {
            return None;
        }
        let bytes = connection.read(batch.payload());
        if bytes > 0 {
            return Some(rx.fill(memory, batch, bytes, connection.data_header(guest_cid)));
        }
        rx.put_back(batch);
    }
    if !connection.has_turn() {
        return Some(0);
    }
    rx.take_one(memory, batch);
    if batch.is_empty() {
        return None;
    }
    match connection.control(guest_cid) {
        Some(header) => rx.send(memory, batch, &header),
        None => rx.put_back(batch),
    }
    Some(1)
}

/// How a socket is watched.
fn watch(ports: Ports, for_space: bool) -> EpollEvent {
    let mut events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    events.set(EventSet::OUT, for_space);
    EpollEvent::new(events, token(ports))
}

fn token(ports: Ports) -> u64 {
    u64::from(ports.host) << 32 | u64::from(ports.guest)
}

fn untoken(token: u64) -> Ports {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(PORT_ANY);
    Ports {
        host: half(token >> 32),
        guest: half(token),
    }
}
