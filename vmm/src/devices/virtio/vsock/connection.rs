//! One connection between a stream socket of the guest and a Unix socket of the host.
//!
//! The state machine: packets of the guest and events of the socket go in; what the guest is to be sent comes out,
//! one step at a time, when it is the connection's turn and there are buffers for it.

use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::EventSet;

use super::backlog::{Backlog, Overrun};
use super::credit::Credit;
use super::packet::{Directions, Header, Op, Ports};
use super::socket::{HostSocket, Received, Slice};

/// What becomes of a connection after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Open,
    /// It is over, and the guest is to be told so.
    Reset,
    /// It is over, and the guest knows.
    Closed,
}

/// How far the connection has been set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A program on the host asked for it, the guest has not answered. Whether it has been asked already: `sent`.
    Requested { sent: bool },
    /// The guest asked for it, and the answer has not been sent.
    Accepted,
    /// Both sides know of it.
    Established,
}

/// The fewest and the most receive buffers that are offered to one read.
const MIN_BURST: usize = 1;
const MAX_BURST: usize = 32;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    socket: HostSocket,
    phase: Phase,
    credit: Credit,
    backlog: Backlog,
    /// What the guest has closed.
    guest_closed: Directions,
    /// What the host's program has closed.
    host_closed: Directions,
    /// What of that the guest has been told.
    told_closed: Directions,
    /// The guest wants to know its credit.
    credit_requested: bool,
    /// The socket may have bytes or an end of file to read.
    readable: bool,
    /// The end of file is in sight: a short read is not the last one.
    ending: bool,
    /// The host's program has let go of the socket.
    hung_up: bool,
    /// How many receive buffers the next read is offered: the more the last ones filled, so that a short message
    /// costs little work and a bulk transfer few system calls.
    burst: usize,
    /// Whether the connection waits for its turn to send to the guest.
    pub queued: bool,
    /// Whether the socket is watched for space.
    pub watches_space: bool,
}

impl Connection {
    /// A connection that a program on the host asks the guest for.
    pub fn requested(ports: Ports, socket: HostSocket) -> Self {
        Self::new(ports, socket, Phase::Requested { sent: false })
    }

    /// A connection that the guest asked for in `request` and that the host's side has taken.
    pub fn accepted(request: &Header, socket: HostSocket) -> Self {
        let mut connection = Self::new(request.ports(), socket, Phase::Accepted);
        connection.credit.observe(request);
        connection
    }

    fn new(ports: Ports, socket: HostSocket, phase: Phase) -> Self {
        Connection {
            ports,
            socket,
            phase,
            credit: Credit::default(),
            backlog: Backlog::default(),
            guest_closed: Directions::default(),
            host_closed: Directions::default(),
            told_closed: Directions::default(),
            credit_requested: false,
            readable: false,
            ending: false,
            hung_up: false,
            burst: MIN_BURST,
            queued: false,
            watches_space: false,
        }
    }

    /// Whether there are bytes for the host that its socket has not taken.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// What remains of a connection that is over, if the socket still has to take bytes.
    pub fn into_remains(self) -> Option<Remains> {
        (!self.backlog.is_empty()).then_some(Remains {
            socket: self.socket,
            backlog: self.backlog,
        })
    }

    /// Handles a packet of the guest with its payload, whose size is the header's `len`.
    pub fn on_packet(&mut self, op: Op, header: &Header, payload: &[Slice]) -> Fate {
        if op == Op::Reset {
            return Fate::Closed;
        }
        self.credit.observe(header);
        if let Phase::Requested { sent } = self.phase {
            return if op == Op::Response && sent {
                self.on_response()
            } else {
                Fate::Reset
            };
        }
        match op {
            Op::Data => self.on_data(header.len, payload),
            Op::Shutdown => self.on_shutdown(Directions::from_wire(header.flags)),
            Op::CreditUpdate => Fate::Open,
            Op::CreditRequest => {
                self.credit_requested = true;
                Fate::Open
            }
            Op::Request | Op::Response | Op::Reset => Fate::Reset,
        }
    }

    /// Handles events of the socket.
    pub fn on_events(&mut self, events: EventSet) -> Fate {
        if events.contains(EventSet::OUT) {
            self.flush();
        }
        if events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR) {
            self.ending = true;
        }
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.hung_up = true;
            if matches!(self.phase, Phase::Requested { .. }) && self.socket.peek(&mut [0]) == Ok(0) {
                // Nobody waits for the guest's answer any more, and there is nothing to say to it.
                return if self.phase == (Phase::Requested { sent: true }) {
                    Fate::Reset
                } else {
                    Fate::Closed
                };
            }
            if self.host_closed.contains(Directions::SEND) || self.guest_closed.contains(Directions::RECEIVE)
            {
                self.host_closed.insert(Directions::BOTH);
            }
        }
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR) {
            self.readable = !self.host_closed.contains(Directions::SEND);
        }
        self.fate_of_guests_shutdown()
    }

    /// Whether there is something to send to the guest.
    pub fn has_turn(&self) -> bool {
        match self.phase {
            Phase::Requested { sent } => !sent,
            Phase::Accepted => true,
            Phase::Established => self.can_read() || self.control_due(),
        }
    }

    /// How many receive buffers and how many bytes of the guest's credit the next turn may use; `None` if it has
    /// nothing but a header to send.
    pub fn appetite(&self) -> Option<(usize, usize)> {
        (self.phase == Phase::Established && self.can_read()).then(|| {
            (
                self.burst,
                usize::try_from(self.credit.available()).unwrap_or(usize::MAX),
            )
        })
    }

    /// Reads from the host into the guest's buffers, which are within the [`Connection::appetite`]. Returns the
    /// number of bytes.
    pub fn read(&mut self, buffers: &[Slice]) -> usize {
        let bytes = match self.socket.read(buffers) {
            Ok(Received::Some(bytes)) => {
                self.burst = (self.burst * 2).min(MAX_BURST);
                bytes
            }
            Ok(Received::Last(bytes)) => {
                self.burst = (self.burst / 2).max(MIN_BURST);
                self.readable = self.ending && bytes > 0;
                bytes
            }
            Ok(Received::EndOfFile) => {
                self.end_of_file();
                0
            }
            Err(_) => {
                // The other side was closed with bytes of ours unread: that is its end too.
                self.hung_up = true;
                self.end_of_file();
                0
            }
        };
        // No read is larger than the guest's credit, a `u32`.
        self.credit.spend(u32::try_from(bytes).unwrap_or(u32::MAX));
        bytes
    }

    /// The packet without payload that is due, if one is.
    pub fn control(&mut self, guest_cid: u64) -> Option<Header> {
        let mut header = Header::to_guest(guest_cid, self.ports, Op::CreditUpdate);
        match self.phase {
            Phase::Requested { sent: true } => return None,
            Phase::Requested { sent: false } => {
                header.op = Op::Request as u16;
                self.phase = Phase::Requested { sent: true };
            }
            Phase::Accepted => {
                header.op = Op::Response as u16;
                self.phase = Phase::Established;
            }
            Phase::Established if self.told_closed != self.host_closed => {
                header.op = Op::Shutdown as u16;
                header.flags = self.host_closed.to_wire();
                self.told_closed = self.host_closed;
            }
            Phase::Established if self.credit_due() => {}
            Phase::Established => return None,
        }
        self.credit_requested = false;
        self.credit.stamp(&mut header);
        Some(header)
    }

    /// The header for bytes that were just read.
    pub fn data_header(&mut self, guest_cid: u64) -> Header {
        let mut header = Header::to_guest(guest_cid, self.ports, Op::Data);
        self.credit_requested = false;
        self.credit.stamp(&mut header);
        header
    }

    /// What becomes of the connection after a turn: once the guest knows that the host's program is gone, nothing is
    /// left to do.
    pub fn fate_after_turn(&self) -> Fate {
        if self.told_closed == Directions::BOTH {
            Fate::Closed
        } else {
            Fate::Open
        }
    }

    fn on_response(&mut self) -> Fate {
        self.phase = Phase::Established;
        let answer = format!("OK {}\n", self.ports.host);
        // The socket's buffer is empty. A program that has closed its receiving side may still have sent something.
        match self.socket.write_bytes(answer.as_bytes()) {
            Ok(written) if written == answer.len() => {}
            Ok(_) => return Fate::Reset,
            Err(_) => self.host_closed.insert(Directions::RECEIVE),
        }
        Fate::Open
    }

    fn on_data(&mut self, len: u32, payload: &[Slice]) -> Fate {
        if self.guest_closed.contains(Directions::SEND) {
            return Fate::Reset;
        }
        if self.host_closed.contains(Directions::RECEIVE) {
            self.credit.forward(len);
            return Fate::Open;
        }
        let written = if self.backlog.is_empty() {
            self.socket.write(payload)
        } else {
            Ok(0)
        };
        let Ok(written) = written else {
            self.host_closed.insert(Directions::RECEIVE);
            self.credit.forward(len);
            return Fate::Open;
        };
        // Never more than `len`.
        let written_bytes = u32::try_from(written).unwrap_or(len);
        self.credit.forward(written_bytes);
        if written_bytes == len {
            return Fate::Open;
        }
        match self.backlog.append(payload, written) {
            Ok(()) => Fate::Open,
            Err(Overrun) => Fate::Reset,
        }
    }

    fn on_shutdown(&mut self, closed: Directions) -> Fate {
        let before = self.guest_closed;
        self.guest_closed.insert(closed);
        if !before.contains(Directions::RECEIVE) && self.guest_closed.contains(Directions::RECEIVE) {
            self.socket.shutdown(Shutdown::Read);
            if self.hung_up {
                self.host_closed.insert(Directions::BOTH);
            }
        }
        if !before.contains(Directions::SEND) {
            self.finish_sending();
        }
        self.fate_of_guests_shutdown()
    }

    /// Writes the backlog as far as the socket takes it.
    fn flush(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        match self.socket.write_bytes(self.backlog.as_slice()) {
            Ok(written) => self.forward_backlog(written),
            Err(_) => {
                self.host_closed.insert(Directions::RECEIVE);
                self.forward_backlog(self.backlog.len());
            }
        }
        self.finish_sending();
    }

    fn forward_backlog(&mut self, bytes: usize) {
        self.backlog.consume(bytes);
        // A backlog is smaller than the credit, a `u32`.
        self.credit.forward(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Passes the guest's end of file on, after its last byte.
    fn finish_sending(&self) {
        if self.guest_closed.contains(Directions::SEND) && self.backlog.is_empty() {
            self.socket.shutdown(Shutdown::Write);
        }
    }

    /// A guest that has closed both directions waits for a reset, which comes after its last byte has been written.
    fn fate_of_guests_shutdown(&self) -> Fate {
        let over = self.guest_closed == Directions::BOTH && self.backlog.is_empty();
        if over { Fate::Reset } else { Fate::Open }
    }

    fn end_of_file(&mut self) {
        self.readable = false;
        self.host_closed.insert(if self.hung_up {
            Directions::BOTH
        } else {
            Directions::SEND
        });
    }

    fn can_read(&self) -> bool {
        self.readable && !self.guest_closed.contains(Directions::RECEIVE) && self.credit.available() > 0
    }

    fn control_due(&self) -> bool {
        self.told_closed != self.host_closed || self.credit_due()
    }

    fn credit_due(&self) -> bool {
        self.credit_requested || (self.credit.update_due() && !self.guest_closed.contains(Directions::SEND))
    }
}

/// The last bytes of a connection that the guest knows no more, and the socket that has not taken them yet. When it
/// has, it is closed.
#[derive(Debug)]
pub struct Remains {
    socket: HostSocket,
    backlog: Backlog,
}

impl Remains {
    /// Writes as much as the socket takes. Returns whether anything is left.
    pub fn flush(&mut self) -> bool {
        match self.socket.write_bytes(self.backlog.as_slice()) {
            Ok(written) => self.backlog.consume(written),
            Err(_) => return false,
        }
        !self.backlog.is_empty()
    }
}

impl AsRawFd for Remains {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
