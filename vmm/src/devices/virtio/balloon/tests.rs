use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::mock_driver::{MEMORY_SIZE, MockDriver};
use crate::event_loop::EventLoop;
use crate::memory::PAGE_SIZE;

/// The queue of free pages.
const REPORTS: usize = 2;

/// A driver whose device works on a loop of its own thread.
fn start(features: u64) -> MockDriver {
    let driver = MockDriver::new(3);
    let mut activation = driver.activation();
    activation.features = features;
    Balloon::new(EventLoop::on_its_own_thread())
        .activate(activation)
        .unwrap();
    driver
}

#[test]
fn a_report_is_used_and_its_pages_are_zero() {
    let driver = start(PAGE_REPORTING);
    // The first buffers of a request start at a page, the next ones do not.
    let buffers = driver.submit(REPORTS, &[], &[2 * PAGE_SIZE, PAGE_SIZE]);
    assert_eq!(driver.wait_for_interrupt(), Interrupt::USED_RING);
    let output = driver.output(&buffers);
    assert!(output[..2 * PAGE_SIZE].iter().all(|byte| *byte == 0));
    assert!(output[2 * PAGE_SIZE..].iter().all(|byte| *byte == 0xa5));
    assert!(
        Descriptor::from(buffers[0])
            .addr()
            .raw_value()
            .is_multiple_of(PAGE_SIZE as u64)
    );
    driver.submit(REPORTS, &[], &[PAGE_SIZE]);
    driver.wait_for_interrupt();
    assert_eq!(driver.used(REPORTS), 2);
}

#[test]
fn what_is_no_page_stays() {
    let driver = start(PAGE_REPORTING);
    let buffers = driver.submit(REPORTS, &[&[0x5a; PAGE_SIZE]], &[PAGE_SIZE, 100]);
    driver.wait_for_interrupt();
    let readable = Descriptor::from(buffers[0]).addr();
    let kept: u8 = driver.memory().read_obj(readable).unwrap();
    assert_eq!(kept, 0x5a);
    assert!(driver.output(&buffers).iter().all(|byte| *byte == 0xa5));
}

#[test]
fn what_the_balloon_would_be_inflated_by_is_not_looked_at() {
    let driver = start(PAGE_REPORTING);
    driver.break_ring();
    let buffers = driver.submit(REPORTS, &[], &[PAGE_SIZE]);
    driver.wait_for_interrupt();
    assert!(driver.output(&buffers).iter().all(|byte| *byte == 0));
}

#[test]
fn another_number_of_queues_is_refused() {
    let event_loop = EventLoop::new().unwrap();
    let driver = MockDriver::new(1);
    let refused = Balloon::new(event_loop.handle()).activate(driver.activation());
    assert!(matches!(refused, Err(ActivateError::Queues(1, 3))));
}

/// Addresses in, at the end of and far behind memory, often those of pages.
fn address() -> impl Strategy<Value = u64> {
    let end = MEMORY_SIZE as u64;
    prop_oneof![
        (0..2 * end / PAGE_SIZE as u64).prop_map(|page| page * PAGE_SIZE as u64),
        0..2 * end,
        end - 2..end + 2,
        any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![
        (0..0x10_0000 / PAGE_SIZE).prop_map(|pages| u32::try_from(pages * PAGE_SIZE).unwrap()),
        any::<u32>(),
    ]
}

proptest! {
    /// Whole pages of the memory become zero, all else stays as it is.
    #[test]
    fn only_whole_pages_of_memory_are_given_back(address in address(), length in length()) {
        let memory = crate::devices::virtio::mock_driver::memory();
        let full = vec![0xa5; MEMORY_SIZE];
        memory.write_slice(&full, GuestAddress(0)).unwrap();
        let given = memory::give_back(&memory, GuestAddress(address), length.into()).is_ok();

        let is_page = |number: u64| number.is_multiple_of(PAGE_SIZE as u64);
        let end = address.checked_add(length.into());
        let inside = length > 0 && end.is_some_and(|end| end <= MEMORY_SIZE as u64);
        prop_assert_eq!(given, inside && is_page(address) && is_page(length.into()));

        let mut now = vec![0; MEMORY_SIZE];
        memory.read_slice(&mut now, GuestAddress(0)).unwrap();
        let mut expected = full;
        if given {
            let start = usize::try_from(address).unwrap();
            expected[start..start + length as usize].fill(0);
        }
        prop_assert!(now == expected);
    }
}
