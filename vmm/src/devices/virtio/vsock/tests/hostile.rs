//! A guest that breaks every rule: the device neither panics nor exceeds its limits, and then still serves.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{Framing, Guest, RX_SLOTS, from_guest, len32};
use crate::devices::virtio::vsock::packet::{HEADER_LEN, Header, Op, Ports};

/// What a guest or a program on the host does next.
#[derive(Debug, Clone)]
enum Step {
    /// A well-framed packet with any header; `len` is set to the payload's size unless this is given.
    Packet(Header, usize, Option<u32>),
    /// A descriptor in the transmit ring (or the receive ring), whatever it points to.
    Descriptor {
        rx: bool,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    /// An entry of the available ring.
    Head {
        rx: bool,
        head: u16,
    },
    /// A jump of the available ring's index.
    Jump {
        rx: bool,
        index: u16,
    },
    /// Buffers for the device.
    Provide(usize),
    /// A client of the listener.
    Client(Vec<u8>),
    /// A program writes to one of its sockets, reads from it, or closes it.
    Write(usize, usize),
    Read(usize),
    Close(usize),
    Look,
}

fn port() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0u32..4, 4 => (1u32 << 30)..(1 << 30) + 6, 1 => Just(u32::MAX), 1 => any::<u32>()]
}

pub fn header() -> impl Strategy<Value = Header> {
    let cid = |usual: u64| prop_oneof![30 => Just(usual), 1 => any::<u64>()];
    let op = prop_oneof![12 => 1u16..=7, 1 => any::<u16>()];
    let socket_type = prop_oneof![30 => Just(1u16), 1 => any::<u16>()];
    let flags = prop_oneof![4 => 0u32..4, 1 => any::<u32>()];
    let counter = || prop_oneof![Just(0u32), 0u32..300_000, any::<u32>()];
    (
        (cid(42), cid(2)),
        (port(), port()),
        (socket_type, op, flags),
        (counter(), counter()),
    )
        .prop_map(
            |((src_cid, dst_cid), (src_port, dst_port), (socket_type, op, flags), (buf_alloc, fwd_cnt))| {
                Header {
                    src_cid,
                    dst_cid,
                    src_port,
                    dst_port,
                    len: 0,
                    socket_type,
                    op,
                    flags,
                    buf_alloc,
                    fwd_cnt,
                }
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let address = || {
        prop_oneof![
            4 => 0u64..0x80_0000,
            1 => 0x7f_ff00u64..0x80_0100,
            1 => u64::MAX - 0x1_0000..=u64::MAX,
            1 => any::<u64>(),
        ]
    };
    let len = || prop_oneof![3 => 0u32..200, 2 => 0u32..100_000, 1 => any::<u32>()];
    prop_oneof![
        30 => (header(), prop_oneof![Just(0usize), 0usize..3000, 0usize..65_537], prop::option::weighted(0.1, any::<u32>()))
            .prop_map(|(header, payload, len)| Step::Packet(header, payload, len)),
        4 => (any::<bool>(), 0u16..300, address(), len(), 0u16..8, 0u16..300).prop_map(
            |(rx, index, address, len, flags, next)| Step::Descriptor { rx, index, address, len, flags, next }
        ),
        3 => (any::<bool>(), 0u16..300).prop_map(|(rx, head)| Step::Head { rx, head }),
        1 => (any::<bool>(), any::<u16>()).prop_map(|(rx, index)| Step::Jump { rx, index }),
        8 => (1usize..20).prop_map(Step::Provide),
        3 => prop_oneof![
            (0u32..4).prop_map(|port| format!("CONNECT {port}\n").into_bytes()),
            prop::collection::vec(any::<u8>(), 0..30),
        ].prop_map(Step::Client),
        4 => (any::<usize>(), 0usize..100_000).prop_map(|(socket, len)| Step::Write(socket, len)),
        4 => any::<usize>().prop_map(Step::Read),
        2 => any::<usize>().prop_map(Step::Close),
        20 => Just(Step::Look),
    ]
}

struct World {
    guest: Guest,
    sockets: Vec<UnixStream>,
}

impl World {
    fn new() -> Self {
        World {
            guest: Guest::ready(),
            sockets: Vec::new(),
        }
    }

    fn socket(&mut self, index: usize) -> Option<(usize, &mut UnixStream)> {
        let index = index.checked_rem(self.sockets.len())?;
        Some((index, &mut self.sockets[index]))
    }

    fn take(&mut self, step: Step) {
        let guest = &mut self.guest;
        match step {
            Step::Packet(header, payload, len) => {
                if !guest.can_send() {
                    return self.look();
                }
                guest.send(header, &vec![0xa5; payload]);
                if let Some(len) = len {
                    guest.spoil_last_packet(len);
                }
            }
            Step::Descriptor {
                rx,
                index,
                address,
                len,
                flags,
                next,
            } => {
                let ring = if rx { &guest.rx } else { &guest.tx };
                ring.describe(index % ring.size(), address, len, flags, next);
            }
            Step::Head { rx, head } => if rx { &mut guest.rx } else { &mut guest.tx }.add_head(head),
            Step::Jump { rx, index } => {
                if rx { &mut guest.rx } else { &mut guest.tx }.set_added(index);
            }
            Step::Provide(buffers) => guest.provide(buffers),
            Step::Client(line) => {
                let mut client = guest.client();
                client.set_nonblocking(true).unwrap();
                let _ = client.write(&line);
                self.sockets.push(client);
            }
            Step::Write(socket, len) => {
                if let Some((_, socket)) = self.socket(socket) {
                    let _ = socket.write(&vec![0x5a; len]);
                }
            }
            Step::Read(socket) => {
                if let Some((_, socket)) = self.socket(socket) {
                    let _ = socket.read(&mut vec![0; 100_000]);
                }
            }
            Step::Close(socket) => {
                if let Some((index, _)) = self.socket(socket) {
                    self.sockets.swap_remove(index);
                }
            }
            Step::Look => self.look(),
        }
    }

    fn look(&mut self) {
        self.guest.handler.on_sockets();
        while let Some((_, socket)) = self.guest.uplinked() {
            socket.set_nonblocking(true).unwrap();
            self.sockets.push(socket);
        }
        // The guest has itself to blame for what its rings look like now; what can be made of them is used.
        self.guest.recover_buffers();
        self.guest.handler.streams.checked_len();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn nothing_that_a_guest_does_breaks_the_device(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.look();
    }

    #[test]
    fn packets_in_any_order_leave_the_device_working(
        steps in prop::collection::vec(step().prop_filter("rings stay sound", |step| {
            !matches!(step, Step::Descriptor { .. } | Step::Head { .. } | Step::Jump { .. } | Step::Packet(_, _, Some(_)))
        }), 1..200),
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.sockets.clear();
        for _ in 0..20 {
            world.guest.provide(usize::MAX);
            world.look();
        }
        let ports = Ports { host: 77, guest: 1_000_000 };
        world.guest.exchange(from_guest(ports, Op::Request), &[]);
        let (port, mut socket) = world.guest.uplinked().unwrap();
        prop_assert_eq!(port, 77);
        world.guest.exchange(from_guest(ports, Op::Data), b"still here");
        let mut bytes = [0; 10];
        socket.read_exact(&mut bytes).unwrap();
        prop_assert_eq!(&bytes, b"still here");
    }
}

#[test]
fn refusals_are_not_piled_up() {
    let mut guest = Guest::new();
    let nobody = from_guest(Ports { host: 1, guest: 1 }, Op::Data);
    let mut taken = 0;
    while guest.can_send() {
        guest.send(nobody, &[]);
        guest.handler.on_sockets();
        taken += 1;
        assert!(
            taken < 1000,
            "the device takes packets whose answers nobody takes"
        );
    }
    guest.provide(usize::MAX);
    let mut refused = 0;
    while refused < taken {
        let packets = guest.look();
        assert!(!packets.is_empty(), "{refused} of {taken}");
        refused += packets.len();
    }
    assert!(guest.look().is_empty());
}

#[test]
fn buffers_that_are_none_are_returned_empty() {
    let mut guest = Guest::new();
    let slot = u16::from(RX_SLOTS > 0) * 4;
    guest.rx.add(0, &[(0x10_0000, 43)], 2);
    guest.rx.add(slot, &[(0x10_0000, 4096)], 0);
    guest.rx.add(2 * slot, &[(u64::MAX - 10, 4096)], 2);
    guest.rx.add(3 * slot, &[(0x10_0000, 4096)], 2);
    guest.send(from_guest(Ports { host: 1, guest: 1 }, Op::Data), &[]);
    guest.handler.on_sockets();
    let returned: Vec<_> = std::iter::from_fn(|| guest.rx.returned()).collect();
    assert_eq!(
        returned,
        [(0, 0), (slot, 0), (2 * slot, 0), (3 * slot, len32(HEADER_LEN))]
    );
}

#[test]
fn a_buffer_without_room_for_bytes_takes_a_header() {
    let mut guest = Guest::new();
    (guest.rx_framing, guest.rx_buffer) = (Framing::One, len32(HEADER_LEN));
    guest.provide(4);
    guest.send(from_guest(Ports { host: 1, guest: 1 }, Op::Request), &[]);
    guest.handler.on_sockets();
    assert_eq!(guest.received().len(), 1);
    let (_, mut socket) = guest.uplinked().unwrap();
    socket.write_all(b"x").unwrap();
    guest.handler.on_sockets();
    let returned: Vec<_> = std::iter::from_fn(|| guest.rx.returned())
        .map(|(_, written)| written)
        .collect();
    assert_eq!(returned, [0, 0, 0]);
    guest.rx_buffer = len32(HEADER_LEN) + 1;
    guest.provide(1);
    assert_eq!(guest.look()[0].1, b"x");
}

#[test]
fn a_chain_that_loops_ends() {
    let mut guest = Guest::ready();
    let header = from_guest(Ports { host: 1, guest: 1 }, Op::Data);
    guest
        .memory
        .write_slice(
            &Header { len: 5000, ..header }.to_bytes(),
            GuestAddress(0x40_0000),
        )
        .unwrap();
    guest.tx.describe(0, 0x40_0000, len32(HEADER_LEN), 1, 1);
    guest.tx.describe(1, 0x40_0100, 1, 1, 1);
    guest.tx.add_head(0);
    let packets = guest.look();
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].0.op, Op::Reset as u16);
    assert_eq!(guest.tx.returned(), Some((0, 0)));
}
