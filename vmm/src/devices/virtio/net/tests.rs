//! The rings and the handler, with a socket pair that keeps messages apart in place of a tap.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::frame::{HEADER_LEN, MAX_FRAME};
use super::handler::{Handler, Waits};
use super::receive::RxRing;
use super::tap::{Moved, Tap};
use super::transmit::{Sent, TxRing};
use crate::devices::virtio::Interrupt;
use crate::devices::virtio::mock_driver::{MEMORY_SIZE, memory};
use crate::memory::GuestMemory;

const SIZE: u16 = 128;
const BUFFERS: u64 = 0x10_0000;
const ETHERNET: usize = 14;

/// A tap and the host's end of it.
fn tap() -> (Tap, OwnedFd) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_NONBLOCK,
    )
    .unwrap();
    (Tap::new(ours).unwrap(), theirs)
}

fn put(host: &OwnedFd, frame: &[u8]) {
    assert_eq!(
        send(host.as_raw_fd(), frame, MsgFlags::empty()).unwrap(),
        frame.len()
    );
}

fn get(host: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; MAX_FRAME + 1];
    let len = recv(host.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT).ok()?;
    frame.truncate(len);
    Some(frame)
}

/// The driver's side of a ring.
struct Driver {
    memory: GuestMemory,
    base: u64,
    descriptors: u16,
    available: u16,
}

impl Driver {
    fn new(memory: &GuestMemory, base: u64) -> Self {
        Driver {
            memory: memory.clone(),
            base,
            descriptors: 0,
            available: 0,
        }
    }

    fn queue(&self, event_index: bool) -> Queue {
        let low = |offset: u64| Some(u32::try_from(self.base + offset).unwrap());
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_desc_table_address(low(0), None);
        queue.set_avail_ring_address(low(0x4000), None);
        queue.set_used_ring_address(low(0x8000), None);
        queue.set_event_idx(event_index);
        queue.set_ready(true);
        assert!(queue.is_valid(&self.memory));
        queue
    }

    /// Makes a chain of (address, length, writable) available and returns its head.
    fn add(&mut self, chain: &[(u64, u32, bool)]) -> u16 {
        let head = self.descriptors % SIZE;
        for (index, &(address, len, writable)) in chain.iter().enumerate() {
            let last = index + 1 == chain.len();
            let next = if last { 0 } else { VRING_DESC_F_NEXT };
            let write = if writable { VRING_DESC_F_WRITE } else { 0 };
            let flags = u16::try_from(next | write).unwrap();
            let at = self.descriptors % SIZE;
            self.descriptors += 1;
            let descriptor = Descriptor::new(address, len, flags, self.descriptors % SIZE);
            self.write(16 * u64::from(at), RawDescriptor::from(descriptor));
        }
        self.write(0x4004 + 2 * u64::from(self.available % SIZE), head);
        self.available += 1;
        self.write(0x4002, self.available);
        head
    }

    fn write<T: vm_memory::ByteValued>(&self, offset: u64, value: T) {
        self.memory
            .write_obj(value, GuestAddress(self.base + offset))
            .unwrap();
    }

    /// From which index in the used ring on the driver wants an interrupt.
    fn want_interrupt_at(&self, index: u16) {
        self.write(0x4004 + 2 * u64::from(SIZE), index);
    }

    /// The chains that were returned, with the lengths that they hold.
    fn used(&self) -> Vec<(u16, u32)> {
        let read = |offset: u64| GuestAddress(self.base + 0x8000 + offset);
        let count: u16 = self.memory.read_obj(read(2)).unwrap();
        (0..u64::from(count))
            .map(|index| {
                let [head, len]: [u32; 2] = self
                    .memory
                    .read_obj(read(4 + 8 * (index % u64::from(SIZE))))
                    .unwrap();
                (u16::try_from(head).unwrap(), len)
            })
            .collect()
    }
}

fn bytes(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// A frame with a header of zeros, of `len` bytes in all, that can be told from others.
fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    let bytes = (0..=u8::MAX).cycle().take(len - HEADER_LEN);
    frame.extend(bytes.map(|byte| byte.wrapping_mul(31).wrapping_add(seed)));
    frame
}

/// What the guest gets of a frame: the tap's header says nothing of buffers.
fn with_buffers(mut frame: Vec<u8>, count: u8) -> Vec<u8> {
    frame[10] = count;
    frame
}

#[test]
fn a_frame_in_pieces_leaves_as_one() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = TxRing::new(driver.queue(false));
    let sent = frame(3000, 1);
    memory.write_slice(&sent[..5], GuestAddress(BUFFERS)).unwrap();
    memory
        .write_slice(&sent[5..20], GuestAddress(BUFFERS + 100))
        .unwrap();
    memory
        .write_slice(&sent[20..], GuestAddress(BUFFERS + 5000))
        .unwrap();
    let head = driver.add(&[
        (BUFFERS, 5, false),
        (BUFFERS + 100, 15, false),
        (BUFFERS + 200, 0, false),
        (BUFFERS + 5000, 2980, false),
    ]);
    assert_eq!(ring.send(&memory, &tap, 10).unwrap(), Sent::All);
    assert_eq!(get(&host), Some(sent));
    assert_eq!(get(&host), None);
    assert_eq!(driver.used(), [(head, 0)]);
    assert!(ring.wants_interrupt(&memory).unwrap());
}

#[test]
fn what_is_no_frame_is_dropped_and_does_not_hold_others_up() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = TxRing::new(driver.queue(true));
    let end = MEMORY_SIZE as u64;
    let most = u32::try_from(MAX_FRAME).unwrap();
    let smallest = u32::try_from(HEADER_LEN + ETHERNET).unwrap();
    let many: Vec<_> = (0..65).map(|_| (BUFFERS, 10, false)).collect();
    for chain in [
        &[(BUFFERS, 100, true)][..],
        &[(BUFFERS, 100, false), (BUFFERS, 100, true)],
        &[(BUFFERS, smallest - 1, false)],
        &[(BUFFERS, most + 1, false)],
        &[(BUFFERS, u32::MAX, false)],
        &[(end - 50, 51, false)],
        &[(u64::MAX - 10, 100, false)],
        &many,
    ] {
        driver.add(chain);
        ring.send(&memory, &tap, 10).unwrap();
        assert_eq!(get(&host), None, "{chain:?}");
    }
    driver.add(&[(BUFFERS, smallest, false)]);
    driver.add(&[(BUFFERS, most, false)]);
    assert_eq!(ring.send(&memory, &tap, 10).unwrap(), Sent::All);
    assert_eq!(get(&host).map(|frame| frame.len()), Some(HEADER_LEN + ETHERNET));
    assert_eq!(get(&host).map(|frame| frame.len()), Some(MAX_FRAME));
    assert_eq!(driver.used().len(), 10);
}

#[test]
fn a_tap_that_takes_no_more_loses_nothing() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = TxRing::new(driver.queue(true));
    let frames: Vec<_> = (0..100).map(|seed| frame(20_000, seed)).collect();
    for (index, frame) in (0..).zip(&frames) {
        let address = BUFFERS + 0x8000 * index;
        memory.write_slice(frame, GuestAddress(address)).unwrap();
        driver.add(&[(address, 20_000, false)]);
    }
    let mut arrived = Vec::new();
    let mut blocked = 0;
    loop {
        let sent = ring.send(&memory, &tap, 1000).unwrap();
        assert_eq!(driver.used().len() >= 100, sent == Sent::All);
        arrived.extend(std::iter::from_fn(|| get(&host)));
        if sent == Sent::All {
            break;
        }
        assert_eq!(sent, Sent::Blocked);
        blocked += 1;
    }
    assert!(blocked > 0, "the socket took everything at once");
    assert!(arrived == frames);
}

#[test]
fn frames_take_as_many_buffers_as_they_need() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = RxRing::new(driver.queue(false), true, MAX_FRAME);
    let heads: Vec<_> = (0..60)
        .map(|index| driver.add(&[(BUFFERS + 0x1000 * index, 4096, true)]))
        .collect();
    for (len, first, count) in [(60, 0, 1u16), (4096, 1, 1), (4097, 2, 2), (MAX_FRAME, 4, 17)] {
        let sent = frame(len, 3);
        put(&host, &sent);
        assert!(ring.has_room(&memory).unwrap());
        assert_eq!(ring.receive(&memory, &tap).unwrap(), Moved::Frame(len));
        let expected = with_buffers(sent, u8::try_from(count).unwrap());
        let address = BUFFERS + 0x1000 * u64::try_from(first).unwrap();
        assert!(bytes(&memory, address, len) == expected, "{len}");
        let used = driver.used();
        assert_eq!(used.len(), first + usize::from(count));
        let lengths = used[first..].iter().map(|(_, len)| *len as usize);
        assert_eq!(lengths.sum::<usize>(), len);
        let returned: Vec<_> = used.iter().map(|(head, _)| *head).collect();
        assert_eq!(returned, heads[..used.len()]);
    }
    assert!(ring.has_room(&memory).unwrap());
    assert_eq!(ring.receive(&memory, &tap).unwrap(), Moved::Nothing);
}

#[test]
fn a_ring_with_too_few_buffers_has_no_room_until_there_are_more() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = RxRing::new(driver.queue(true), true, MAX_FRAME);
    assert!(!ring.has_room(&memory).unwrap());
    // Malformed ones do not count, and come back empty.
    let bad = [
        driver.add(&[(BUFFERS, 100, false)]),
        driver.add(&[(BUFFERS, 11, true)]),
        driver.add(&[(MEMORY_SIZE as u64, 4096, true)]),
    ];
    driver.add(&[(BUFFERS, 40_000, true)]);
    assert!(!ring.has_room(&memory).unwrap());
    assert_eq!(driver.used(), bad.map(|head| (head, 0)));
    driver.add(&[(BUFFERS + 0x1_0000, 40_000, true)]);
    assert!(ring.has_room(&memory).unwrap());
    put(&host, &frame(50_000, 0));
    assert_eq!(ring.receive(&memory, &tap).unwrap(), Moved::Frame(50_000));
    assert_eq!(driver.used()[3..], [(3, 40_000), (4, 10_000)]);
}

#[test]
fn a_header_may_be_spread_over_pieces() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = RxRing::new(driver.queue(false), true, 100);
    let pieces = [
        (BUFFERS, 3, true),
        (BUFFERS + 50, 8, true),
        (BUFFERS + 90, 100, true),
    ];
    driver.add(&pieces);
    put(&host, &frame(80, 9));
    assert!(ring.has_room(&memory).unwrap());
    ring.receive(&memory, &tap).unwrap();
    let mut got = bytes(&memory, BUFFERS, 3);
    got.extend(bytes(&memory, BUFFERS + 50, 8));
    got.extend(bytes(&memory, BUFFERS + 90, 69));
    assert_eq!(got, with_buffers(frame(80, 9), 1));
}

#[test]
fn without_mergeable_buffers_a_frame_takes_one() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = RxRing::new(driver.queue(false), false, MAX_FRAME);
    driver.add(&[(BUFFERS, 100, true)]);
    driver.add(&[(BUFFERS + 0x1000, 100, true)]);
    put(&host, &frame(150, 0));
    assert!(ring.has_room(&memory).unwrap());
    ring.receive(&memory, &tap).unwrap();
    assert_eq!(driver.used(), [(0, 100)]);
    assert_eq!(bytes(&memory, BUFFERS + 10, 2), [1, 0]);
    assert_eq!(bytes(&memory, BUFFERS + 0x1000, 100), [0; 100]);
}

#[test]
fn the_driver_is_told_when_a_frame_of_many_buffers_passes_its_mark() {
    let (memory, (tap, host)) = (memory(), tap());
    let mut driver = Driver::new(&memory, 0);
    let mut ring = RxRing::new(driver.queue(true), true, 1000);
    for index in 0..30 {
        driver.add(&[(BUFFERS + 0x1000 * index, 100, true)]);
    }
    let mut receive = |len, mark| {
        driver.want_interrupt_at(mark);
        put(&host, &frame(len, 0));
        assert!(ring.has_room(&memory).unwrap());
        ring.receive(&memory, &tap).unwrap();
        ring.wants_interrupt(&memory).unwrap()
    };
    assert!(receive(1000, 0), "10 buffers, the first is the mark");
    assert!(!receive(100, 11), "the mark is the next one");
    assert!(receive(100, 11));
    assert!(!ring.wants_interrupt(&memory).unwrap(), "nothing is new");
}

/// A handler at work, and what surrounds it.
struct Bench {
    events: EventManager<Box<dyn MutEventSubscriber>>,
    rx: (Driver, EventFd),
    tx: (Driver, EventFd),
    line: EventFd,
}

impl Bench {
    fn new(tap: Tap) -> Self {
        let memory = memory();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (rx, tx) = (Driver::new(&memory, 0), Driver::new(&memory, 0x1_0000));
        let (rx_kick, tx_kick, line) = (event(), event(), event());
        let status = Arc::new(AtomicU32::new(0));
        let handler = Handler {
            interrupt: Arc::new(Interrupt::new(status, line.try_clone().unwrap())),
            tap,
            rx: RxRing::new(rx.queue(true), true, MAX_FRAME),
            rx_kick: rx_kick.try_clone().unwrap(),
            tx: TxRing::new(tx.queue(true)),
            tx_kick: tx_kick.try_clone().unwrap(),
            waits: Waits::default(),
            memory,
        };
        let mut events: EventManager<Box<dyn MutEventSubscriber>> = EventManager::new().unwrap();
        events.add_subscriber(Box::new(handler));
        Bench {
            events,
            rx: (rx, rx_kick),
            tx: (tx, tx_kick),
            line,
        }
    }

    /// Handles what there is to handle, and returns after how many events nothing was left.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        while let events @ 1.. = self.events.run_with_timeout(0).unwrap() {
            count += events;
            assert!(count < 1000, "it spins");
        }
        count
    }

    fn add_buffers(&mut self, count: u64) {
        for index in 0..count {
            self.rx.0.add(&[(BUFFERS + 0x2_0000 * index, 0x1_8000, true)]);
        }
        self.rx.1.write(1).unwrap();
    }
}

#[test]
fn frames_wait_in_the_tap_while_the_guest_has_no_buffers() {
    let (tap, host) = tap();
    let mut bench = Bench::new(tap);
    assert_eq!(bench.settle(), 0);
    put(&host, &frame(100, 1));
    put(&host, &frame(100, 2));
    bench.settle();
    assert_eq!(bench.rx.0.used(), []);
    assert_eq!(bench.settle(), 0, "it looks at a tap for which there is no room");

    bench.add_buffers(1);
    bench.settle();
    assert_eq!(bench.rx.0.used(), [(0, 100)]);
    assert_eq!(bench.line.read().unwrap(), 1);
    bench.add_buffers(3);
    bench.settle();
    assert_eq!(bench.rx.0.used(), [(0, 100), (1, 100)]);
    put(&host, &frame(100, 3));
    bench.settle();
    assert_eq!(bench.rx.0.used().len(), 3);
}

#[test]
fn more_frames_than_one_turn_takes_are_all_sent() {
    let (tap, host) = tap();
    let mut bench = Bench::new(tap);
    for _ in 0..100 {
        bench.tx.0.add(&[(BUFFERS, 100, false)]);
    }
    bench.tx.1.write(1).unwrap();
    bench.settle();
    assert_eq!(std::iter::from_fn(|| get(&host)).count(), 100);
    assert_eq!(bench.tx.0.used().len(), 100);
}

#[test]
fn a_blocked_frame_goes_out_when_the_tap_takes_it() {
    let (tap, host) = tap();
    let mut bench = Bench::new(tap);
    for _ in 0..100 {
        bench.tx.0.add(&[(BUFFERS, 20_000, false)]);
    }
    bench.tx.1.write(1).unwrap();
    bench.settle();
    assert!(bench.tx.0.used().len() < 100, "the socket took everything");
    assert_eq!(bench.settle(), 0, "it looks at a tap that takes nothing");
    let mut arrived = 0;
    while arrived < 100 {
        let more = std::iter::from_fn(|| get(&host)).count();
        assert!(more > 0, "{arrived} of 100 frames");
        arrived += more;
        bench.settle();
    }
    assert_eq!(bench.tx.0.used().len(), 100);
}

#[test]
fn a_tap_that_has_gone_takes_what_the_guest_sends() {
    let (tap, host) = tap();
    let mut bench = Bench::new(tap);
    bench.add_buffers(2);
    bench.settle();
    drop(host);
    bench.settle();
    assert_eq!(bench.settle(), 0, "it looks at a tap that is no more");
    bench.tx.0.add(&[(BUFFERS, 100, false)]);
    bench.tx.1.write(1).unwrap();
    bench.settle();
    assert_eq!(bench.tx.0.used(), [(0, 0)]);
    bench.add_buffers(1);
    assert!(bench.settle() > 0);
}

#[test]
fn a_broken_ring_silences_the_device() {
    let (tap, _host) = tap();
    let mut bench = Bench::new(tap);
    bench.tx.0.write(0x4002, 1000u16);
    bench.tx.1.write(1).unwrap();
    bench.settle();
    bench.tx.1.write(1).unwrap();
    bench.rx.1.write(1).unwrap();
    assert_eq!(bench.settle(), 0);
}

/// Descriptors as a hostile driver may write them: mostly where something is, of any length, and chained anyhow.
fn hostile_descriptors() -> impl Strategy<Value = Vec<(u64, u32, u16, u16)>> {
    let end = MEMORY_SIZE as u64;
    let address = prop_oneof![8 => 0..end, 1 => end - 100..end + 100, 1 => any::<u64>()];
    let len = prop_oneof![4 => 0..200u32, 2 => 0..0x2_0000u32, 1 => any::<u32>()];
    proptest::collection::vec((address, len, 0..8u16, 0..SIZE + 2), 1..usize::from(SIZE))
}

proptest! {
    #[test]
    fn hostile_rings_do_no_harm(
        descriptors in hostile_descriptors(),
        heads in proptest::collection::vec(0..SIZE + 4, 0..200),
        available: u16,
        mergeable: bool,
        event_index: bool,
        frames in proptest::collection::vec(0..3000usize, 0..4),
    ) {
        let (memory, (tap, host)) = (memory(), tap());
        let driver = Driver::new(&memory, 0);
        let (mut rx, mut tx) = (
            RxRing::new(driver.queue(event_index), mergeable, MAX_FRAME),
            TxRing::new(driver.queue(event_index)),
        );
        for (index, &(address, len, flags, next)) in (0..).zip(&descriptors) {
            driver.write(16 * index, RawDescriptor::from(Descriptor::new(address, len, flags, next)));
        }
        for (index, &head) in (0..u64::from(SIZE)).zip(&heads) {
            driver.write(0x4004 + 2 * index, head);
        }
        driver.write(0x4002, available);
        for len in frames {
            put(&host, &frame(len.max(HEADER_LEN), 0));
            if rx.has_room(&memory).unwrap_or(false) {
                let _ = rx.receive(&memory, &tap);
                let _ = rx.wants_interrupt(&memory);
            }
            let _ = tx.send(&memory, &tap, 200);
            let _ = tx.wants_interrupt(&memory);
            while let Some(frame) = get(&host) {
                prop_assert!((HEADER_LEN + ETHERNET..=MAX_FRAME).contains(&frame.len()));
            }
        }
    }
}
