use super::*;
use crate::config::MemoryBacking;
use crate::devices::virtio::mock_driver::MockDriver;
use crate::event_loop::EventLoop;
use vm_memory::GuestAddress;

/// A driver whose device works on a loop of its own thread.
fn start() -> MockDriver {
    let driver = MockDriver::new(1);
    Rng::new(EventLoop::on_its_own_thread())
        .activate(driver.activation())
        .unwrap();
    driver
}

#[test]
fn buffers_are_filled_with_what_differs() {
    let driver = start();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let buffers = driver.submit(0, &[], &[32]);
        assert_eq!(driver.wait_for_interrupt(), Interrupt::USED_RING);
        seen.push(driver.output(&buffers));
    }
    assert_eq!(driver.used(0), 3);
    assert!(seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2]);
    assert!(!seen.contains(&vec![0xa5; 32]), "a buffer was not written to");
}

#[test]
fn a_large_buffer_gets_a_part() {
    let driver = start();
    let buffers = driver.submit(0, &[], &[MOST_PER_BUFFER + 100]);
    driver.wait_for_interrupt();
    let output = driver.output(&buffers);
    assert!(output[MOST_PER_BUFFER..].iter().all(|byte| *byte == 0xa5));
    assert!(
        output[..MOST_PER_BUFFER]
            .windows(16)
            .any(|window| window != [0xa5; 16])
    );
}

#[test]
fn a_request_without_a_buffer_to_fill_is_used_up() {
    let driver = start();
    driver.submit(0, &[b"read-only"], &[]);
    driver.wait_for_interrupt();
    assert_eq!(driver.used(0), 1);
}

#[test]
fn a_buffer_outside_of_memory_gets_nothing() {
    let memory = crate::memory::allocate(&[(GuestAddress(0), 1 << 20)], MemoryBacking::default()).unwrap();
    assert_eq!(fill(&memory, GuestAddress(1 << 20), 16), 0);
    assert_eq!(fill(&memory, GuestAddress((1 << 20) - 8), 16), 0);
    assert_eq!(fill(&memory, GuestAddress(u64::MAX), u32::MAX), 0);
    assert_eq!(fill(&memory, GuestAddress(0), 16), 16);
}

#[test]
fn another_number_of_queues_is_refused() {
    let event_loop = EventLoop::new().unwrap();
    let driver = MockDriver::new(2);
    let refused = Rng::new(event_loop.handle()).activate(driver.activation());
    assert!(matches!(refused, Err(ActivateError::Queues(2, 1))));
}
