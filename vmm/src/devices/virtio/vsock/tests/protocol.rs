//! What the device does, packet by packet.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::driver::{Framing, GUEST_CID, Guest, from_guest};
use crate::devices::virtio::vsock::credit::BUFFER_SIZE;
use crate::devices::virtio::vsock::packet::{Directions, HOST_CID, Header, Op, Ports};
use crate::devices::virtio::vsock::streams::MAX_STREAMS;

/// The packets' operations and flags.
fn ops(packets: &[(Header, Vec<u8>)]) -> Vec<(Op, u32)> {
    packets
        .iter()
        .map(|(header, _)| (Op::from_wire(header.op).unwrap(), header.flags))
        .collect()
}

fn shutdown(ports: Ports, closed: Directions) -> Header {
    Header {
        flags: closed.to_wire(),
        ..from_guest(ports, Op::Shutdown)
    }
}

/// A connection that the guest has opened.
fn opened_by_guest(guest: &mut Guest) -> (Ports, UnixStream) {
    let ports = Ports {
        host: 1234,
        guest: 70,
    };
    let packets = guest.exchange(from_guest(ports, Op::Request), &[]);
    assert_eq!(ops(&packets), [(Op::Response, 0)]);
    let header = packets[0].0;
    assert_eq!(
        (header.src_port, header.dst_port, header.buf_alloc),
        (1234, 70, BUFFER_SIZE)
    );
    let (port, socket) = guest.uplinked().unwrap();
    assert_eq!(port, 1234);
    socket.set_nonblocking(true).unwrap();
    (ports, socket)
}

/// A connection that a program on the host has opened.
fn opened_by_host(guest: &mut Guest) -> (Ports, UnixStream) {
    let mut client = guest.client();
    client.write_all(b"CONNECT 70\n").unwrap();
    let packets = guest.look();
    assert_eq!(ops(&packets), [(Op::Request, 0)]);
    let header = packets[0].0;
    assert_eq!(
        (header.src_cid, header.dst_cid, header.dst_port),
        (HOST_CID, GUEST_CID, 70)
    );
    let ports = Ports {
        host: header.src_port,
        guest: 70,
    };
    assert!(guest.exchange(from_guest(ports, Op::Response), &[]).is_empty());
    let mut answer = vec![0; 100];
    let length = client.read(&mut answer).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer[..length]),
        format!("OK {}\n", ports.host)
    );
    client.set_nonblocking(true).unwrap();
    (ports, client)
}

fn read_all(socket: &mut UnixStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => (bytes, true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => (bytes, false),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn bytes_go_both_ways_in_every_framing() {
    for rx_framing in Framing::ALL {
        for tx_framing in Framing::ALL {
            for open in [opened_by_guest, opened_by_host] {
                let mut guest = Guest::new();
                (guest.rx_framing, guest.tx_framing) = (rx_framing, tx_framing);
                guest.provide(usize::MAX);
                let (ports, mut socket) = open(&mut guest);
                guest.exchange(from_guest(ports, Op::Data), b"to the host");
                assert_eq!(read_all(&mut socket), (b"to the host".to_vec(), false));
                socket.write_all(b"to the guest").unwrap();
                let packets = guest.look();
                assert_eq!(ops(&packets), [(Op::Data, 0)], "{rx_framing:?} {tx_framing:?}");
                assert_eq!(packets[0].1, b"to the guest");
            }
        }
    }
}

#[test]
fn what_a_client_says_before_the_answer_is_kept() {
    let mut guest = Guest::ready();
    let mut client = guest.client();
    client.write_all(b"CONNECT 70\nhello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (header, _) = guest.look()[0];
    let ports = Ports {
        host: header.src_port,
        guest: 70,
    };
    let packets = guest.exchange(from_guest(ports, Op::Response), &[]);
    assert_eq!(
        ops(&packets),
        [(Op::Data, 0), (Op::Shutdown, Directions::SEND.to_wire())]
    );
    assert_eq!(packets[0].1, b"hello");
}

#[test]
fn a_client_that_gives_up_is_forgotten() {
    let mut guest = Guest::ready();
    let mut client = guest.client();
    client.write_all(b"CONNECT 70\n").unwrap();
    let (header, _) = guest.look()[0];
    drop(client);
    let packets = guest.look();
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    assert_eq!(packets[0].0.src_port, header.src_port);
}

#[test]
fn a_guest_without_a_listener_closes_the_client_without_an_answer() {
    let mut guest = Guest::ready();
    let mut client = guest.client();
    client.write_all(b"CONNECT 70\n").unwrap();
    let (header, _) = guest.look()[0];
    let ports = Ports {
        host: header.src_port,
        guest: 70,
    };
    assert!(guest.exchange(from_guest(ports, Op::Reset), &[]).is_empty());
    assert_eq!(read_all(&mut client), (vec![], true));
}

#[test]
fn clients_that_talk_nonsense_or_slowly_do_not_hold_others_up() {
    let mut guest = Guest::ready();
    let mut nonsense = guest.client();
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut slow = guest.client();
    slow.write_all(b"CONN").unwrap();
    let silent = guest.client();
    let _other = opened_by_host(&mut guest);
    // The rest of its line was not read, hence "connection reset" instead of an end of file.
    assert_eq!(
        nonsense.read(&mut [0; 9]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    slow.write_all(b"ECT 7").unwrap();
    assert!(guest.look().is_empty());
    slow.write_all(b"1\n").unwrap();
    let packets = guest.look();
    assert_eq!(ops(&packets), [(Op::Request, 0)]);
    assert_eq!(packets[0].0.dst_port, 71);
    drop(silent);
    assert!(guest.look().is_empty());
}

#[test]
fn connections_of_clients_have_ports_of_their_own() {
    let mut guest = Guest::ready();
    let (first, _a) = opened_by_host(&mut guest);
    let (second, _b) = opened_by_host(&mut guest);
    assert!(first.host >= 1 << 30 && second.host >= 1 << 30);
    assert_ne!(first, second);
}

#[test]
fn the_host_closes_one_direction() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    socket.write_all(b"last words").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let packets = guest.look();
    assert_eq!(
        ops(&packets),
        [(Op::Data, 0), (Op::Shutdown, Directions::SEND.to_wire())]
    );
    guest.exchange(from_guest(ports, Op::Data), b"answer");
    assert_eq!(read_all(&mut socket), (b"answer".to_vec(), false));
    let packets = guest.exchange(shutdown(ports, Directions::BOTH), &[]);
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    assert_eq!(read_all(&mut socket), (vec![], true));
}

#[test]
fn the_guest_closes_one_direction_then_the_other() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    guest.send(from_guest(ports, Op::Data), b"last words");
    assert!(guest.exchange(shutdown(ports, Directions::SEND), &[]).is_empty());
    assert_eq!(read_all(&mut socket), (b"last words".to_vec(), true));
    socket.write_all(b"answer").unwrap();
    assert_eq!(guest.look()[0].1, b"answer");
    // The flags accumulate.
    let packets = guest.exchange(shutdown(ports, Directions::RECEIVE), &[]);
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    assert_eq!(socket.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_guest_that_does_not_receive_is_sent_nothing() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    guest.exchange(shutdown(ports, Directions::RECEIVE), &[]);
    assert_eq!(socket.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.exchange(from_guest(ports, Op::Data), b"still sending");
    assert_eq!(read_all(&mut socket), (b"still sending".to_vec(), false));
    drop(socket);
    let packets = guest.look();
    assert_eq!(ops(&packets), [(Op::Shutdown, Directions::BOTH.to_wire())]);
}

#[test]
fn the_host_goes_away() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    socket.write_all(b"last words").unwrap();
    drop(socket);
    let packets = guest.look();
    assert_eq!(
        ops(&packets),
        [(Op::Data, 0), (Op::Shutdown, Directions::BOTH.to_wire())]
    );
    // The connection is gone: what was under way is refused, the guest's own reset is not.
    let packets = guest.exchange(from_guest(ports, Op::Data), b"too late");
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    assert!(guest.exchange(from_guest(ports, Op::Reset), &[]).is_empty());
}

#[test]
fn a_host_that_goes_with_bytes_unread_still_delivers_its_own() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    guest.exchange(from_guest(ports, Op::Data), b"never read");
    socket.write_all(b"last words").unwrap();
    drop(socket);
    let packets = guest.look();
    assert_eq!(
        ops(&packets),
        [(Op::Data, 0), (Op::Shutdown, Directions::BOTH.to_wire())]
    );
    assert_eq!(packets[0].1, b"last words");
}

#[test]
fn a_host_that_stops_reading_lets_the_guest_know() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    socket.shutdown(Shutdown::Read).unwrap();
    let packets = guest.exchange(from_guest(ports, Op::Data), b"nobody reads this");
    assert_eq!(ops(&packets), [(Op::Shutdown, Directions::RECEIVE.to_wire())]);
    assert!(
        guest
            .exchange(from_guest(ports, Op::Data), b"nor this")
            .is_empty()
    );
    socket.write_all(b"still sending").unwrap();
    assert_eq!(guest.look()[0].1, b"still sending");
}

#[test]
fn a_slow_reader_holds_its_guest_back_and_loses_nothing() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    let chunk = vec![5u8; 64 * 1024];
    let (mut sent, mut told) = (0u32, 0u32);
    // As much as the guest may send while nobody reads.
    while BUFFER_SIZE - (sent - told) >= 64 * 1024 {
        let packets = guest.exchange(from_guest(ports, Op::Data), &chunk);
        sent += 64 * 1024;
        for (header, _) in packets {
            assert_eq!(header.op, Op::CreditUpdate as u16);
            told = header.fwd_cnt;
        }
    }
    assert!(sent > BUFFER_SIZE, "the socket takes some as well");
    let asked = guest.exchange(from_guest(ports, Op::CreditRequest), &[]);
    assert_eq!(ops(&asked), [(Op::CreditUpdate, 0)]);
    // The guest says goodbye, waits, and gives up: all of it has to arrive nevertheless.
    assert!(guest.exchange(shutdown(ports, Directions::BOTH), &[]).is_empty());
    assert!(guest.exchange(from_guest(ports, Op::Reset), &[]).is_empty());
    // Its port is free again at once.
    let (_, mut other) = opened_by_guest(&mut guest);
    let mut got = 0;
    loop {
        let (bytes, end) = read_all(&mut socket);
        got += bytes.len();
        guest.look();
        if end {
            break;
        }
    }
    assert_eq!(got, sent as usize);
    guest.exchange(from_guest(ports, Op::Data), b"other");
    assert_eq!(read_all(&mut other), (b"other".to_vec(), false));
}

#[test]
fn a_reset_follows_the_last_byte() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    for _ in 0..4 {
        guest.exchange(from_guest(ports, Op::Data), &[7; 64 * 1024]);
    }
    assert!(guest.exchange(shutdown(ports, Directions::BOTH), &[]).is_empty());
    let mut got = 0;
    let mut packets = vec![];
    while packets.is_empty() {
        let (bytes, end) = read_all(&mut socket);
        got += bytes.len();
        assert!(!end);
        packets = guest.look();
    }
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    let (bytes, end) = read_all(&mut socket);
    assert_eq!((got + bytes.len(), end), (256 * 1024, true));
}

#[test]
fn a_guest_that_overruns_its_credit_is_reset() {
    let mut guest = Guest::ready();
    let (ports, _socket) = opened_by_guest(&mut guest);
    let packets: Vec<_> = (0..16)
        .flat_map(|_| guest.exchange(from_guest(ports, Op::Data), &[1; 64 * 1024]))
        .collect();
    assert!(ops(&packets).contains(&(Op::Reset, 0)));
}

#[test]
fn the_guests_credit_is_respected() {
    let mut guest = Guest::ready();
    let ports = Ports { host: 1, guest: 2 };
    let credit = |buf_alloc, fwd_cnt, op| Header {
        buf_alloc,
        fwd_cnt,
        ..from_guest(ports, op)
    };
    guest.exchange(credit(1000, 0, Op::Request), &[]);
    let (_, mut socket) = guest.uplinked().unwrap();
    socket.write_all(&[1; 2500]).unwrap();
    drop(socket);
    let packets = guest.look();
    assert_eq!(packets[0].1.len(), 1000);
    assert!(guest.look().is_empty());
    let packets = guest.exchange(credit(1000, 400, Op::CreditUpdate), &[]);
    assert_eq!(packets[0].1.len(), 400);
    let packets = guest.exchange(credit(10_000, 1400, Op::CreditUpdate), &[]);
    assert_eq!(
        ops(&packets),
        [(Op::Data, 0), (Op::Shutdown, Directions::BOTH.to_wire())]
    );
    assert_eq!(packets[0].1.len(), 1100);
}

#[test]
fn nothing_happens_without_buffers_and_nothing_is_lost() {
    let mut guest = Guest::new();
    let ports = Ports { host: 1, guest: 2 };
    guest.exchange(from_guest(ports, Op::Request), &[]);
    let (_, mut socket) = guest.uplinked().unwrap();
    socket.write_all(b"one").unwrap();
    assert!(guest.look().is_empty());
    guest.provide(1);
    assert_eq!(ops(&guest.look()), [(Op::Response, 0)]);
    let packets = guest.look();
    assert_eq!(packets[0].1, b"one");
}

#[test]
fn buffers_that_are_not_needed_stay_in_the_ring() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    for round in 0..100 {
        let credit = Header {
            fwd_cnt: round * 20_100,
            ..from_guest(ports, Op::CreditUpdate)
        };
        assert!(guest.exchange(credit, &[]).is_empty());
        // A read of the first is offered more than is left of it, and so is that of the second.
        for len in [20_000, 100] {
            socket.write_all(&vec![3; len]).unwrap();
            let got: usize = guest.look().iter().map(|(_, payload)| payload.len()).sum();
            assert_eq!(got, len, "round {round}");
        }
    }
}

#[test]
fn a_connection_that_nobody_takes_is_refused() {
    let mut guest = Guest::ready();
    guest.close_uplink();
    let ports = Ports { host: 1, guest: 2 };
    let packets = guest.exchange(from_guest(ports, Op::Request), &[]);
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    let header = packets[0].0;
    assert_eq!(
        (header.src_cid, header.src_port, header.dst_port),
        (HOST_CID, 1, 2)
    );
}

#[test]
fn ports_in_use_are_refused_and_their_connection_ends() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    let packets = guest.exchange(from_guest(ports, Op::Request), &[]);
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    assert_eq!(read_all(&mut socket), (vec![], true));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let ports = Ports { host: 5, guest: 6 };
    let request = from_guest(ports, Op::Request);
    let nonsense = [
        Header {
            src_cid: 43,
            ..request
        },
        Header {
            dst_cid: 3,
            ..request
        },
        Header {
            socket_type: 2,
            ..request
        },
        Header {
            socket_type: 0,
            ..request
        },
        Header { op: 0, ..request },
        Header { op: 8, ..request },
        Header {
            src_port: u32::MAX,
            ..request
        },
        Header {
            dst_port: u32::MAX,
            ..request
        },
        from_guest(ports, Op::Response),
        from_guest(ports, Op::Shutdown),
        from_guest(ports, Op::Data),
        from_guest(ports, Op::CreditUpdate),
        from_guest(ports, Op::CreditRequest),
    ];
    let mut guest = Guest::ready();
    for header in nonsense {
        let packets = guest.exchange(header, &[]);
        assert_eq!(ops(&packets), [(Op::Reset, 0)], "{header:?}");
        let reset = packets[0].0;
        assert_eq!((reset.src_cid, reset.dst_cid), (header.dst_cid, GUEST_CID));
        assert_eq!(
            (reset.src_port, reset.dst_port),
            (header.dst_port, header.src_port)
        );
        assert_eq!(reset.socket_type, header.socket_type);
        let packets = guest.exchange(
            Header {
                op: Op::Reset as u16,
                ..header
            },
            &[],
        );
        assert!(packets.is_empty(), "a reset is not answered");
    }
    assert!(guest.uplinked().is_none());
}

#[test]
fn data_after_the_end_is_refused() {
    let mut guest = Guest::ready();
    let (ports, _socket) = opened_by_guest(&mut guest);
    guest.exchange(shutdown(ports, Directions::SEND), &[]);
    let packets = guest.exchange(from_guest(ports, Op::Data), b"more");
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
}

#[test]
fn the_limit_of_streams_is_a_refusal() {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .unwrap()
        .1;
    assert!(
        limit >= 2 * MAX_STREAMS as u64 + 100,
        "the test needs {MAX_STREAMS} sockets"
    );
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit).unwrap();
    let mut guest = Guest::ready();
    let mut sockets = Vec::new();
    for port in (0..).take(MAX_STREAMS) {
        let packets = guest.exchange(from_guest(Ports { host: 1, guest: port }, Op::Request), &[]);
        assert_eq!(ops(&packets), [(Op::Response, 0)], "{port}");
        sockets.push(guest.uplinked().unwrap().1);
    }
    let mut client = guest.client();
    client.write_all(b"CONNECT 70\n").unwrap();
    let packets = guest.exchange(
        from_guest(
            Ports {
                host: 1,
                guest: 100_000,
            },
            Op::Request,
        ),
        &[],
    );
    assert_eq!(ops(&packets), [(Op::Reset, 0)]);
    assert_eq!(
        client.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // All of them still work, and one that goes makes room for another.
    for socket in &mut sockets {
        socket.write_all(b"x").unwrap();
    }
    let mut got = 0;
    while got < MAX_STREAMS {
        let packets = guest.look();
        assert!(!packets.is_empty(), "stalled after {got}");
        got += packets.len();
    }
    sockets.pop();
    guest.look();
    opened_by_host(&mut guest);
}

#[test]
fn a_bulk_transfer_does_not_starve_others() {
    let mut guest = Guest::new();
    guest.provide(32);
    let mut sockets = Vec::new();
    for port in 0..8 {
        let header = from_guest(Ports { host: 1, guest: port }, Op::Request);
        guest.exchange(header, &[]);
        let (_, socket) = guest.uplinked().unwrap();
        socket.set_nonblocking(true).unwrap();
        sockets.push(socket);
    }
    let mut got = [0usize; 8];
    for _ in 0..40 {
        for socket in &mut sockets {
            while socket.write(&[0; 8192]).is_ok() {}
        }
        for (header, payload) in guest.look() {
            got[header.dst_port as usize] += payload.len();
        }
    }
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 2 * 32 * 3776, "{got:?}");
}

#[test]
fn one_interrupt_for_a_batch() {
    let mut guest = Guest::ready();
    let (ports, mut socket) = opened_by_guest(&mut guest);
    guest.interrupts();
    for _ in 0..10 {
        guest.send(from_guest(ports, Op::Data), b"x");
    }
    socket.write_all(&[0; 40_000]).unwrap();
    assert!(guest.look().len() > 10);
    assert_eq!(guest.interrupts(), 1);
    assert!(guest.look().is_empty());
    assert_eq!(guest.interrupts(), 0);
}
