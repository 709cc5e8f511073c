use std::io::{Read, Write};
use std::sync::mpsc::{Sender, channel};

use super::*;
use crate::devices::virtio::buffers;
use crate::devices::virtio::mock_driver::MockDriver;

/// Answers with its input reversed, and tells when it ends.
struct Reverse(Sender<&'static str>);

impl Service for Reverse {
    fn serve(&mut self, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
        let mut bytes = Vec::new();
        buffers::input(memory, chain.clone())
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        bytes.reverse();
        buffers::output(memory, chain).unwrap().write_all(&bytes).unwrap();
        u32::try_from(bytes.len()).unwrap()
    }
}

impl Drop for Reverse {
    fn drop(&mut self) {
        self.0.send("ended").unwrap();
    }
}

fn started(sender: Sender<&'static str>) -> Worker {
    Worker::start("test", Thread::Block, || Ok(Reverse(sender))).unwrap()
}

fn serving(driver: &MockDriver, sender: Sender<&'static str>) -> Worker {
    let mut worker = started(sender);
    worker.serve(driver.activation()).unwrap();
    worker
}

#[test]
fn serves_what_was_there_before_it_started_and_interrupts() {
    let driver = MockDriver::new(2);
    let request = driver.submit(1, &[b"ab", b"c"], &[2, 1]);
    let (sender, _ended) = channel();
    let _worker = serving(&driver, sender);
    assert_eq!(driver.wait_for_interrupt(), Interrupt::USED_RING);
    assert_eq!(driver.output(&request), b"cba");
    assert_eq!(driver.used(1), 1);
}

#[test]
fn serves_what_comes_later() {
    let driver = MockDriver::new(2);
    let (sender, _ended) = channel();
    let _worker = serving(&driver, sender);
    let request = driver.submit(1, &[b"xyz"], &[3]);
    assert_eq!(driver.wait_for_interrupt(), Interrupt::USED_RING);
    assert_eq!(driver.output(&request), b"zyx");
}

#[test]
fn ends_when_dropped() {
    let driver = MockDriver::new(2);
    let (sender, ended) = channel();
    let worker = serving(&driver, sender);
    drop(worker);
    assert_eq!(ended.try_recv(), Ok("ended"));
}

#[test]
fn stops_at_a_broken_ring() {
    let driver = MockDriver::new(2);
    let (sender, ended) = channel();
    let _worker = serving(&driver, sender);
    driver.break_ring();
    assert_eq!(ended.recv(), Ok("ended"));
    assert_eq!(driver.used(0), 0);
}

#[test]
fn ends_when_dropped_before_its_driver_came() {
    let (sender, ended) = channel();
    drop(started(sender));
    assert_eq!(ended.try_recv(), Ok("ended"));
}

#[test]
fn reports_a_service_that_cannot_start() {
    let worker = Worker::start::<Reverse, _>("test", Thread::Block, || Err(io::Error::other("no disk")));
    assert_eq!(worker.err().expect("an error").to_string(), "no disk");
}
