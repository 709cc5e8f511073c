//! Streams that keep to the protocol beside others that do not, for as long as there is time: whatever the others do,
//! every byte of the good ones arrives.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::driver::Framing;
use super::hostile;
use super::model::{self, NOISE, World};
use crate::devices::virtio::vsock::packet::Header;

/// How long it goes on, in seconds; 2 unless this variable says otherwise.
const SECONDS: &str = "BULKHEAD_VSOCK_SOAK_SECONDS";

#[derive(Debug, Clone)]
enum Step {
    /// A good stream goes on.
    Good(model::Step),
    /// The guest sends any packet under a port that no good stream has; perhaps with a length that is a lie.
    Packet(Header, usize, Option<u32>),
    /// A client of the listener that talks nonsense, or asks for such a port.
    Client(Vec<u8>),
    /// A program on the host writes to, reads from or closes one of the bad streams.
    Write(usize, usize),
    Read(usize, usize),
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let header = hostile::header().prop_map(|header| Header {
        src_port: header.src_port.saturating_add(NOISE),
        ..header
    });
    let len = prop_oneof![Just(0usize), 1usize..2000, 1usize..65_537];
    let line = prop_oneof![
        (NOISE..NOISE + 4).prop_map(|port| format!("CONNECT {port}\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..30),
    ];
    prop_oneof![
        16 => model::step().prop_map(Step::Good),
        8 => (header, len, prop::option::weighted(0.1, any::<u32>()))
            .prop_map(|(header, len, lie)| Step::Packet(header, len, lie)),
        1 => line.prop_map(Step::Client),
        1 => (any::<usize>(), 1usize..100_000).prop_map(|(socket, len)| Step::Write(socket, len)),
        1 => (any::<usize>(), 1usize..100_000).prop_map(|(socket, len)| Step::Read(socket, len)),
        1 => any::<usize>().prop_map(Step::Close),
    ]
}

/// The bad streams' programs on the host.
#[derive(Default)]
struct Programs(Vec<UnixStream>);

impl Programs {
    fn add(&mut self, socket: UnixStream) {
        socket.set_nonblocking(true).unwrap();
        self.0.push(socket);
    }

    fn index(&self, any: usize) -> Option<usize> {
        any.checked_rem(self.0.len())
    }
}

fn take(world: &mut World, programs: &mut Programs, step: Step) {
    match step {
        Step::Good(step) => world.take(step),
        Step::Packet(header, len, lie) => {
            if world.guest.can_send() {
                world.guest.send(header, &vec![0x5a; len]);
                lie.into_iter().for_each(|lie| world.guest.spoil_last_packet(lie));
            }
        }
        Step::Client(line) => {
            let mut client = world.guest.client();
            client.write_all(&line).unwrap();
            programs.add(client);
        }
        // Whatever becomes of these is right.
        Step::Write(any, len) => {
            if let Some(index) = programs.index(any) {
                let _ = programs.0[index].write(&vec![0xa5; len]);
            }
        }
        Step::Read(any, len) => {
            if let Some(index) = programs.index(any) {
                let _ = programs.0[index].read(&mut vec![0; len]);
            }
        }
        Step::Close(any) => {
            if let Some(index) = programs.index(any) {
                programs.0.swap_remove(index);
            }
        }
    }
    while let Some((_, socket)) = world.guest.uplinked() {
        programs.add(socket);
    }
}

#[test]
fn bad_streams_do_not_harm_good_ones() {
    let seconds = std::env::var(SECONDS).map_or(2, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let strategy = (
        prop::sample::select(&Framing::ALL[..]),
        prop::sample::select(&Framing::ALL[..]),
        prop_oneof![Just(3776u32), 50u32..16_000],
        prop_oneof![Just(262_144u32), 1000u32..100_000],
        prop::collection::vec(step(), 1..1000),
    );
    for round in 0u64.. {
        if Instant::now() > end {
            assert!(round > 0);
            break;
        }
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&round.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let (rx_framing, tx_framing, rx_buffer, buf_alloc, steps) =
            strategy.new_tree(&mut runner).unwrap().current();
        let failed = std::panic::catch_unwind(|| {
            let mut world = World::new(rx_framing, tx_framing, rx_buffer, buf_alloc);
            let mut programs = Programs::default();
            for step in steps {
                take(&mut world, &mut programs, step);
            }
            world.finish();
            drop(programs);
            for _ in 0..10 {
                world.guest.provide(usize::MAX);
                world.look();
            }
        });
        assert!(failed.is_ok(), "round {round}");
    }
}
