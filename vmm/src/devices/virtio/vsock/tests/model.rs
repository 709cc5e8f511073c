//! A guest that keeps to the protocol and programs on the host do things in any order: every byte arrives, in its
//! order, in both directions, and after the last one the end of file.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::driver::{Framing, Guest, from_guest, len32};
use crate::devices::virtio::vsock::packet::{Directions, Header, MAX_PAYLOAD, Op, Ports};

/// The byte at a place in a stream: a pattern that shows loss, repetition and exchange of bytes.
fn byte(stream: u32, place: usize) -> u8 {
    let mixed = place.wrapping_mul(31) ^ (place >> 8).wrapping_mul(7) ^ (stream as usize * 101);
    u8::try_from(mixed & 0xff).unwrap()
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Flow {
    written: usize,
    read: usize,
    /// The writer has closed it.
    closed: bool,
    /// The reader has seen the end.
    ended: bool,
}

impl Flow {
    fn write(&mut self, stream: u32, len: usize) -> Vec<u8> {
        (self.written..self.written + len)
            .map(|place| byte(stream, place))
            .collect()
    }

    fn take(&mut self, stream: u32, bytes: &[u8]) {
        for &got in bytes {
            assert_eq!(
                got,
                byte(stream, self.read),
                "stream {stream}, byte {}",
                self.read
            );
            self.read += 1;
        }
        assert!(bytes.is_empty() || (self.read <= self.written && !self.ended));
    }

    fn end(&mut self) {
        assert!(self.closed, "the end before it was closed");
        assert_eq!(self.read, self.written, "the end before the last byte");
        self.ended = true;
    }
}

/// A connection as the guest and the program on the host see it.
#[derive(Debug)]
struct Stream {
    number: u32,
    ports: Ports,
    socket: UnixStream,
    to_host: Flow,
    to_guest: Flow,
    /// Bytes that the guest has received and that its program has not read.
    unread: Vec<u8>,
    buf_alloc: u32,
    fwd_cnt: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    told_closed: Directions,
    reset: bool,
}

impl Stream {
    fn header(&self, op: Op) -> Header {
        Header {
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
            ..from_guest(self.ports, op)
        }
    }

    fn credit(&self) -> usize {
        let under_way = len32(self.to_host.written).wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(under_way) as usize
    }

    fn host_writes(&mut self, len: usize) {
        if self.to_guest.closed {
            return;
        }
        let bytes = self.to_guest.write(self.number, len);
        match self.socket.write(&bytes) {
            Ok(written) => self.to_guest.written += written,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn host_reads(&mut self, len: usize) {
        if self.to_host.ended {
            return;
        }
        let mut bytes = vec![0; len];
        match self.socket.read(&mut bytes) {
            Ok(0) => self.to_host.end(),
            Ok(read) => self.to_host.take(self.number, &bytes[..read]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn host_closes(&mut self) {
        if !self.to_guest.closed {
            self.socket.shutdown(Shutdown::Write).unwrap();
            self.to_guest.closed = true;
        }
    }

    fn guest_writes(&mut self, guest: &mut Guest, len: usize) {
        let len = len.min(self.credit()).min(MAX_PAYLOAD);
        if self.to_host.closed || len == 0 || !guest.can_send() {
            return;
        }
        let bytes = self.to_host.write(self.number, len);
        guest.send(self.header(Op::Data), &bytes);
        self.to_host.written += len;
    }

    fn guest_reads(&mut self, guest: &mut Guest, len: usize) {
        if !guest.can_send() {
            return;
        }
        let rest = self.unread.split_off(len.min(self.unread.len()));
        let bytes = std::mem::replace(&mut self.unread, rest);
        self.fwd_cnt = self.fwd_cnt.wrapping_add(len32(bytes.len()));
        self.to_guest.take(self.number, &bytes);
        if !bytes.is_empty() && !self.reset {
            guest.send(self.header(Op::CreditUpdate), &[]);
        }
        if self.unread.is_empty() && self.told_closed.contains(Directions::SEND) && !self.to_guest.ended {
            self.to_guest.end();
        }
    }

    fn guest_closes(&mut self, guest: &mut Guest, directions: Directions) {
        if self.reset || !guest.can_send() {
            return;
        }
        self.to_host.closed = true;
        guest.send(
            Header {
                flags: directions.to_wire(),
                ..self.header(Op::Shutdown)
            },
            &[],
        );
    }

    fn guest_gets(&mut self, header: &Header, payload: Vec<u8>) {
        assert!(!self.reset);
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
        match Op::from_wire(header.op).unwrap() {
            Op::Data => {
                assert!(
                    !self.told_closed.contains(Directions::SEND),
                    "bytes after the end"
                );
                self.unread.extend(payload);
                assert!(
                    self.unread.len() <= self.buf_alloc as usize,
                    "more than the guest has room for"
                );
            }
            Op::Shutdown => self.told_closed.insert(Directions::from_wire(header.flags)),
            Op::Reset => self.reset = true,
            Op::CreditUpdate => {}
            other => panic!("{other:?} in a connection"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Step {
    HostWrites(usize, usize),
    HostReads(usize, usize),
    HostCloses(usize),
    GuestWrites(usize, usize),
    GuestReads(usize, usize),
    GuestCloses(usize),
    DeviceLooks,
    GuestProvides(usize),
}

pub fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS;
    let len = prop_oneof![1usize..200, 1usize..100_000];
    prop_oneof![
        6 => (stream.clone(), len.clone()).prop_map(|(stream, len)| Step::HostWrites(stream, len)),
        6 => (stream.clone(), len.clone()).prop_map(|(stream, len)| Step::HostReads(stream, len)),
        1 => stream.clone().prop_map(Step::HostCloses),
        6 => (stream.clone(), len.clone()).prop_map(|(stream, len)| Step::GuestWrites(stream, len)),
        6 => (stream.clone(), len).prop_map(|(stream, len)| Step::GuestReads(stream, len)),
        1 => stream.prop_map(Step::GuestCloses),
        8 => Just(Step::DeviceLooks),
        6 => (1usize..20).prop_map(Step::GuestProvides),
    ]
}

const STREAMS: usize = 4;

/// Ports of the guest from here on are not the model's.
pub const NOISE: u32 = 1000;

pub struct World {
    pub guest: Guest,
    streams: Vec<Stream>,
}

impl World {
    /// Half of the streams are opened by the guest, half by programs on the host.
    pub fn new(rx_framing: Framing, tx_framing: Framing, rx_buffer: u32, buf_alloc: u32) -> Self {
        let mut guest = Guest::new();
        (guest.rx_framing, guest.tx_framing, guest.rx_buffer) = (rx_framing, tx_framing, rx_buffer);
        guest.provide(1);
        let mut streams = Vec::new();
        for number in (0..).take(STREAMS) {
            let (ports, socket, answer) = if number % 2 == 0 {
                let ports = Ports {
                    host: 1,
                    guest: number,
                };
                let request = Header {
                    buf_alloc,
                    ..from_guest(ports, Op::Request)
                };
                let answer = guest.exchange(request, &[]).remove(0).0;
                (ports, guest.uplinked().unwrap().1, answer)
            } else {
                let mut client = guest.client();
                client
                    .write_all(format!("CONNECT {number}\n").as_bytes())
                    .unwrap();
                let request = guest.look().remove(0).0;
                let ports = Ports {
                    host: request.src_port,
                    guest: number,
                };
                let response = Header {
                    buf_alloc,
                    ..from_guest(ports, Op::Response)
                };
                assert!(guest.exchange(response, &[]).is_empty());
                let mut line = vec![0; format!("OK {}\n", ports.host).len()];
                client.read_exact(&mut line).unwrap();
                (ports, client, request)
            };
            socket.set_nonblocking(true).unwrap();
            streams.push(Stream {
                number,
                ports,
                socket,
                to_host: Flow::default(),
                to_guest: Flow::default(),
                unread: Vec::new(),
                buf_alloc,
                fwd_cnt: 0,
                peer_buf_alloc: answer.buf_alloc,
                peer_fwd_cnt: answer.fwd_cnt,
                told_closed: Directions::default(),
                reset: false,
            });
        }
        World { guest, streams }
    }

    pub fn take(&mut self, step: Step) {
        let World { guest, streams } = self;
        match step {
            Step::HostWrites(stream, len) => streams[stream].host_writes(len),
            Step::HostReads(stream, len) => streams[stream].host_reads(len),
            Step::HostCloses(stream) => streams[stream].host_closes(),
            Step::GuestWrites(stream, len) => streams[stream].guest_writes(guest, len),
            Step::GuestReads(stream, len) => streams[stream].guest_reads(guest, len),
            Step::GuestCloses(stream) => streams[stream].guest_closes(guest, Directions::SEND),
            Step::DeviceLooks => self.look(),
            Step::GuestProvides(buffers) => guest.provide(buffers),
        }
    }

    pub fn look(&mut self) {
        self.guest.handler.on_sockets();
        for (header, payload) in self.guest.received() {
            let ports = Ports {
                host: header.src_port,
                guest: header.dst_port,
            };
            match self.streams.iter_mut().find(|stream| stream.ports == ports) {
                Some(stream) if !stream.reset => stream.guest_gets(&header, payload),
                _ => assert!(header.op == Op::Reset as u16 || ports.guest >= NOISE),
            }
        }
        self.guest.handler.streams.checked_len();
    }

    /// Everybody writes no more, and reads until the end.
    pub fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "stalled: {:?}", self.streams);
            self.guest.provide(usize::MAX);
            self.look();
            for stream in &mut self.streams {
                stream.host_closes();
                if !stream.to_host.closed {
                    stream.guest_closes(&mut self.guest, Directions::SEND);
                }
                stream.guest_reads(&mut self.guest, usize::MAX);
                stream.host_reads(1 << 20);
            }
            if self
                .streams
                .iter()
                .all(|stream| stream.to_host.ended && stream.to_guest.ended)
            {
                break;
            }
        }
        self.look();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_byte_arrives_in_any_interleaving(
        rx_framing in prop::sample::select(&Framing::ALL[..]),
        tx_framing in prop::sample::select(&Framing::ALL[..]),
        rx_buffer in prop_oneof![Just(3776u32), 50u32..16_000],
        buf_alloc in prop_oneof![Just(262_144u32), 1u32..100_000],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut world = World::new(rx_framing, tx_framing, rx_buffer, buf_alloc);
        for step in steps {
            world.take(step);
        }
        world.finish();
        prop_assert_eq!(world.guest.handler.streams.checked_len(), 0, "both ends are closed");
    }

    /// The guest's program writes as fast as it can and closes at once; its kernel then waits for the reset.
    #[test]
    fn a_burst_of_the_guest_and_its_immediate_end(total in 1usize..2_000_000, reads in prop::collection::vec(1usize..200_000, 1..20)) {
        let mut world = World::new(Framing::One, Framing::Fragments, 3776, 262_144);
        let mut reads = reads.iter().cycle();
        while world.streams[0].to_host.written < total {
            let rest = total - world.streams[0].to_host.written;
            world.streams[0].guest_writes(&mut world.guest, rest);
            world.guest.provide(usize::MAX);
            world.look();
            if world.streams[0].credit() == 0 {
                world.streams[0].host_reads(*reads.next().unwrap());
            }
        }
        world.streams[0].guest_closes(&mut world.guest, Directions::BOTH);
        while !world.streams[0].to_host.ended {
            world.look();
            world.guest.provide(usize::MAX);
            world.streams[0].host_reads(*reads.next().unwrap());
        }
        prop_assert!(world.streams[0].reset);
    }
}

/// The burst that programs really make: 64 MiB, then an immediate end, in both directions.
#[test]
fn sixty_four_mebibytes_and_an_immediate_end() {
    const TOTAL: usize = 64 << 20;
    let mut world = World::new(Framing::One, Framing::Fragments, 3776, 262_144);
    let (mut client_done, mut guest_done) = (false, false);
    while !(world.streams[0].to_host.ended && world.streams[0].to_guest.ended) {
        let World { guest, streams } = &mut world;
        let stream = &mut streams[0];
        stream.host_writes((TOTAL - stream.to_guest.written).min(1 << 18));
        stream.guest_writes(guest, (TOTAL - stream.to_host.written).min(MAX_PAYLOAD));
        if stream.to_guest.written == TOTAL && !client_done {
            client_done = true;
            stream.host_closes();
        }
        if stream.to_host.written == TOTAL && !guest_done {
            guest_done = true;
            stream.guest_closes(guest, Directions::SEND);
        }
        guest.provide(usize::MAX);
        world.look();
        let World { guest, streams } = &mut world;
        streams[0].guest_reads(guest, usize::MAX);
        streams[0].host_reads(1 << 18);
    }
    assert_eq!(world.streams[0].to_host.read, TOTAL);
    assert_eq!(world.streams[0].to_guest.read, TOTAL);
}
