use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::handler::MemService;
use super::request::{Blocks, Request, Response, State};
use super::*;
use crate::config::MemoryBacking;
use crate::devices::virtio::mock_driver::{self, MockDriver, Served};
use crate::devices::virtio::{Interrupt, VirtioDevice};
use crate::event_loop::EventLoop;
use crate::kvm::KvmError;
use crate::memory::{self, GuestMemory};

const START: u64 = 4 << 30;
const BLOCKS: u16 = 128;
/// Two chunks.
const SIZE: u64 = BLOCKS as u64 * BLOCK_SIZE;

/// The ranges that the guest has been given.
type Exposed = Arc<Mutex<Vec<(u64, u64)>>>;

fn memory() -> GuestMemory {
    let ram = memory::allocate(&[(GuestAddress(0), 1 << 20)], MemoryBacking::default()).unwrap();
    memory::reserve(&ram, GuestAddress(START), SIZE, true).unwrap()
}

fn region() -> (Region, GuestMemory, Exposed) {
    let (memory, exposed) = (memory(), Exposed::default());
    let theirs = Arc::clone(&exposed);
    let expose: Expose = Box::new(move |start, size| {
        theirs.lock().unwrap().push((start.0, size));
        Ok(())
    });
    let region = Region::new(memory.clone(), GuestAddress(START), SIZE, false, expose);
    (region, memory, exposed)
}

/// Blocks by the number of the first.
fn blocks(first: u16, count: u16) -> Blocks {
    Blocks {
        address: START + u64::from(first) * BLOCK_SIZE,
        count,
    }
}

/// As a driver writes it.
fn as_bytes(kind: u16, blocks: Blocks) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&blocks.address.to_le_bytes());
    bytes[16..18].copy_from_slice(&blocks.count.to_le_bytes());
    bytes
}

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

#[test]
fn the_guest_has_no_more_than_it_is_to_have() {
    let (mut region, ..) = region();
    assert_eq!(region.carry_out(Request::Plug(blocks(0, 1))), Response::Refused);
    region.request(3 * BLOCK_SIZE + 1);
    assert_eq!(region.requested_size(), 3 * BLOCK_SIZE);
    assert_eq!(region.carry_out(Request::Plug(blocks(0, 4))), Response::Refused);
    assert_eq!(region.carry_out(Request::Plug(blocks(0, 2))), Response::Done);
    assert_eq!(region.carry_out(Request::Plug(blocks(5, 2))), Response::Refused);
    assert_eq!(region.carry_out(Request::Plug(blocks(5, 1))), Response::Done);
    assert_eq!(region.plugged_size(), 3 * BLOCK_SIZE);
    region.request(u64::MAX);
    assert_eq!(region.requested_size(), SIZE);
    region.request(0);
    assert_eq!(
        region.plugged_size(),
        3 * BLOCK_SIZE,
        "the guest gives it back itself"
    );
}

#[test]
fn blocks_are_plugged_once_and_unplugged_once() {
    let (mut region, ..) = region();
    region.request(SIZE);
    assert_eq!(region.carry_out(Request::Unplug(blocks(1, 1))), Response::Error);
    assert_eq!(region.carry_out(Request::Plug(blocks(1, 2))), Response::Done);
    assert_eq!(region.carry_out(Request::Plug(blocks(2, 2))), Response::Error);
    assert_eq!(region.carry_out(Request::Unplug(blocks(2, 2))), Response::Error);
    let mut state = |first, count| region.carry_out(Request::State(blocks(first, count)));
    assert_eq!(state(1, 2), Response::State(State::Plugged));
    assert_eq!(state(3, 9), Response::State(State::Unplugged));
    assert_eq!(state(0, 2), Response::State(State::Mixed));
    assert_eq!(region.carry_out(Request::Unplug(blocks(2, 1))), Response::Done);
    assert_eq!(region.plugged_size(), BLOCK_SIZE);
    assert_eq!(region.carry_out(Request::UnplugAll), Response::Done);
    assert_eq!(region.carry_out(Request::UnplugAll), Response::Done);
    assert_eq!(region.plugged_size(), 0);
}

#[test]
fn blocks_that_are_none_of_the_region_are_an_error() {
    let (mut region, ..) = region();
    region.request(SIZE);
    for (address, count) in [
        (START, 0),
        (START + 4096, 1),
        (START - BLOCK_SIZE, 1),
        (0, 1),
        (START + SIZE, 1),
        (START, BLOCKS + 1),
        (START + SIZE - BLOCK_SIZE, 2),
        (u64::MAX / BLOCK_SIZE * BLOCK_SIZE, u16::MAX),
    ] {
        let blocks = Blocks { address, count };
        for request in [
            Request::Plug(blocks),
            Request::Unplug(blocks),
            Request::State(blocks),
        ] {
            assert_eq!(region.carry_out(request), Response::Error, "{request:?}");
        }
    }
    assert_eq!(region.plugged_size(), 0);
}

#[test]
fn what_is_unplugged_costs_nothing_and_is_zero() {
    let (mut region, memory, _) = region();
    region.request(SIZE);
    region.carry_out(Request::Plug(blocks(0, 3)));
    let [first, second] = [START, START + BLOCK_SIZE].map(GuestAddress);
    memory.write_obj(7u64, first).unwrap();
    memory.write_obj(7u64, second).unwrap();
    region.carry_out(Request::Unplug(blocks(1, 1)));
    assert_eq!(memory.read_obj::<u64>(first).unwrap(), 7);
    assert_eq!(memory.read_obj::<u64>(second).unwrap(), 0);
    region.carry_out(Request::UnplugAll);
    assert_eq!(memory.read_obj::<u64>(first).unwrap(), 0);
}

#[test]
fn the_guest_reaches_a_chunk_from_its_first_block_on() {
    let (mut region, _, exposed) = region();
    let seen = || exposed.lock().unwrap().clone();
    region.carry_out(Request::Plug(blocks(0, 1)));
    assert_eq!(seen(), [], "it was refused");
    region.request(SIZE);
    region.carry_out(Request::Plug(blocks(64, 1)));
    assert_eq!(seen(), [(START + (128 << 20), 128 << 20)]);
    region.carry_out(Request::Plug(blocks(62, 2)));
    region.carry_out(Request::UnplugAll);
    region.carry_out(Request::Plug(blocks(0, BLOCKS)));
    assert_eq!(seen(), [(START + (128 << 20), 128 << 20), (START, 128 << 20)]);
}

#[test]
fn a_host_that_cannot_is_asked_again() {
    let mut refusals = 1;
    let expose: Expose = Box::new(move |_, _| {
        refusals -= 1;
        if refusals < 0 {
            return Ok(());
        }
        let error = std::io::Error::from_raw_os_error(libc::ENOMEM);
        Err(KvmError::Call("KVM_SET_USER_MEMORY_REGION", error))
    });
    let mut region = Region::new(memory(), GuestAddress(START), SIZE, true, expose);
    region.request(SIZE);
    assert_eq!(region.carry_out(Request::Plug(blocks(0, 1))), Response::Busy);
    assert_eq!(region.plugged_size(), 0);
    assert_eq!(region.carry_out(Request::Plug(blocks(0, 1))), Response::Done);
}

/// A device whose driver works on it, and the event that tells of changes.
fn start() -> (MockDriver, Target, EventFd) {
    let (driver, changed) = (MockDriver::new(1), EventFd::new(0).unwrap());
    let mut device = Mem::new(
        region().0,
        changed.try_clone().unwrap(),
        EventLoop::on_its_own_thread(),
    );
    let target = device.target();
    device.activate(driver.activation()).unwrap();
    assert_eq!(driver.wait_for_interrupt(), Interrupt::CONFIGURATION);
    (driver, target, changed)
}

#[test]
fn a_driver_is_told_of_another_size_and_takes_it() {
    let (driver, target, changed) = start();
    target.request(BLOCK_SIZE);
    assert_eq!(driver.wait_for_interrupt(), Interrupt::CONFIGURATION);
    let plug = as_bytes(PLUG, blocks(0, 1));
    let buffers = driver.submit(0, &[&plug], &[10]);
    assert_eq!(driver.wait_for_interrupt(), Interrupt::USED_RING);
    assert_eq!(driver.output(&buffers), [0; 10]);
    assert_eq!(changed.read().unwrap(), 1);
    assert_eq!(target.plugged_size(), BLOCK_SIZE);
    // What changes nothing is no news.
    let buffers = driver.submit(0, &[&plug], &[10]);
    driver.wait_for_interrupt();
    assert_eq!(driver.output(&buffers)[0], 3);
    let buffers = driver.submit(0, &[&as_bytes(STATE, blocks(0, 2))], &[10]);
    driver.wait_for_interrupt();
    assert_eq!(driver.output(&buffers), [0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    driver.submit(0, &[&as_bytes(UNPLUG_ALL, blocks(0, 0))], &[10]);
    driver.wait_for_interrupt();
    assert_eq!(changed.read().unwrap(), 1);
    assert_eq!((target.plugged_size(), driver.used(0)), (0, 4));
}

#[test]
fn the_configuration_says_where_and_how_much() {
    let (mut region, ..) = region();
    region.request(3 * BLOCK_SIZE);
    region.carry_out(Request::Plug(blocks(0, 2)));
    let changed = EventFd::new(EFD_NONBLOCK).unwrap();
    let device = Mem::new(region, changed, EventLoop::new().unwrap().handle());
    let mut config = [0; 64];
    device.read_config(0, &mut config);
    let numbers: Vec<u64> = config
        .chunks(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(
        numbers,
        [
            BLOCK_SIZE,
            0,
            START,
            SIZE,
            SIZE,
            2 * BLOCK_SIZE,
            3 * BLOCK_SIZE,
            0
        ]
    );
    let mut part = [0; 4];
    device.read_config(20, &mut part);
    assert_eq!(u32::from_le_bytes(part), 1, "the upper half of the address");
}

/// A service whose guest may have everything.
fn service() -> MemService {
    let changed = EventFd::new(EFD_NONBLOCK).unwrap();
    let device = Mem::new(region().0, changed, EventLoop::new().unwrap().handle());
    device.target().request(SIZE);
    MemService(device.shared())
}

#[test]
fn a_request_may_come_in_any_buffers() {
    let plug = as_bytes(PLUG, blocks(0, 1));
    let served = mock_driver::serve(&mut service(), &[&plug[..3], &plug[3..10], &plug[10..]], &[1, 20]);
    let mut output = vec![0; 10];
    output.resize(21, 0xa5);
    assert_eq!(served, Served { written: 10, output });
}

#[test]
fn what_is_no_request_changes_nothing() {
    let plug = as_bytes(PLUG, blocks(0, 1));
    let mut service = service();
    let unanswered = mock_driver::serve(&mut service, &[&plug], &[9]);
    assert_eq!(unanswered.written, 0);
    for input in [
        &plug[..23],
        &[],
        &as_bytes(4, blocks(0, 1)),
        &as_bytes(0x100, blocks(0, 1)),
    ] {
        let served = mock_driver::serve(&mut service, &[input], &[10]);
        assert_eq!((served.written, served.output[0]), (10, 3), "{input:?}");
    }
    let (memory, end) = (mock_driver::memory(), mock_driver::MEMORY_SIZE as u64);
    for (input, output) in [(end - 8, 0x1000), (0x1000, end - 4), (u64::MAX - 8, 0x1000)] {
        let chain = [(input, 24, false), (output, 10, true)];
        mock_driver::serve_raw(&mut service, &memory, &chain);
    }
    assert_eq!(service.0.region().plugged_size(), 0);
}

/// A request of any kind that is near to making sense.
fn request() -> impl Strategy<Value = [u8; 24]> {
    let address = prop_oneof![
        8 => (0..BLOCKS + 2).prop_map(|block| START + u64::from(block) * BLOCK_SIZE),
        1 => START - 2 * BLOCK_SIZE..START + SIZE + 2 * BLOCK_SIZE,
        1 => any::<u64>(),
    ];
    let count = prop_oneof![4 => 0..8u16, 2 => 0..BLOCKS + 2, 1 => any::<u16>()];
    let kind =
        prop_oneof![8 => PLUG..=PLUG, 4 => UNPLUG..=UNPLUG, 1 => UNPLUG_ALL..=u16::MAX, 2 => STATE..=STATE];
    (kind, address, count).prop_map(|(kind, address, count)| as_bytes(kind, Blocks { address, count }))
}

/// What a region should do with a request, by a set of plugged blocks.
fn model(plugged: &mut BTreeSet<u64>, requested: u64, request: Option<Request>) -> Response {
    let all = |blocks: Blocks| {
        let addresses = (0..u64::from(blocks.count)).map(|n| blocks.address.checked_add(n * BLOCK_SIZE));
        let is_block =
            |address: &u64| address.is_multiple_of(BLOCK_SIZE) && (START..START + SIZE).contains(address);
        let addresses: Vec<u64> = addresses
            .map(|address| address.filter(is_block))
            .collect::<Option<_>>()?;
        (!addresses.is_empty()).then_some(addresses)
    };
    let (request, blocks) = match request {
        None => return Response::Error,
        Some(Request::UnplugAll) => {
            plugged.clear();
            return Response::Done;
        }
        Some(request @ (Request::Plug(blocks) | Request::Unplug(blocks) | Request::State(blocks))) => {
            (request, all(blocks))
        }
    };
    let Some(blocks) = blocks else {
        return Response::Error;
    };
    let count = blocks.iter().filter(|block| plugged.contains(block)).count();
    match request {
        Request::Plug(_) if count > 0 => Response::Error,
        Request::Plug(_) if (plugged.len() + blocks.len()) as u64 * BLOCK_SIZE > requested => {
            Response::Refused
        }
        Request::Plug(_) => {
            plugged.extend(blocks);
            Response::Done
        }
        Request::Unplug(_) if count < blocks.len() => Response::Error,
        Request::Unplug(_) => {
            plugged.retain(|block| !blocks.contains(block));
            Response::Done
        }
        _ if count == 0 => Response::State(State::Unplugged),
        _ if count == blocks.len() => Response::State(State::Plugged),
        _ => Response::State(State::Mixed),
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_none(bytes in any::<[u8; 24]>()) {
        let [kind, kind_high, ..] = bytes;
        let kind = u16::from_le_bytes([kind, kind_high]);
        prop_assert_eq!(Request::parse(&bytes).is_some(), kind <= STATE);
        if let Some(Request::Plug(blocks)) = Request::parse(&bytes) {
            prop_assert_eq!(&as_bytes(PLUG, blocks)[8..18], &bytes[8..18]);
        }
    }

    /// Whatever a driver asks for, the region does what a set of blocks would; and what is plugged, and nothing else of what
    /// was ever written, keeps its content.
    #[test]
    fn a_region_is_a_set_of_blocks(steps in prop::collection::vec((request(), 0..SIZE + BLOCK_SIZE, any::<bool>()), 0..60)) {
        let (mut region, memory, _) = region();
        let mut plugged = BTreeSet::new();
        for (bytes, requested, is_changed) in steps {
            if is_changed {
                region.request(requested);
            }
            let request = Request::parse(&bytes);
            let expected = model(&mut plugged, region.requested_size(), request);
            let response = request.map_or(Response::Error, |request| region.carry_out(request));
            prop_assert_eq!(response, expected);
            prop_assert_eq!(region.plugged_size(), plugged.len() as u64 * BLOCK_SIZE);
            for block in &plugged {
                memory.write_obj(*block, GuestAddress(*block)).unwrap();
            }
        }
        for block in (START..START + SIZE).step_by(usize::try_from(BLOCK_SIZE).unwrap()) {
            let content: u64 = memory.read_obj(GuestAddress(block)).unwrap();
            prop_assert_eq!(content, if plugged.contains(&block) { block } else { 0 });
        }
    }
}
