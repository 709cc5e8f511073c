use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};

use proptest::prelude::*;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use crate::config::MemoryBacking;
use crate::devices::virtio::device::ActivateError;
use crate::memory;

const MEMORY_SIZE: u64 = 1 << 20;
const FEATURES: u64 = 1 << 5 | 1 << VIRTIO_RING_F_EVENT_IDX;
const SIZES: [u16; 2] = [16, 64];
const CONFIG: [u8; 6] = *b"config";

const STARTED: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

/// A device that says when it is activated.
struct Device {
    activations: Sender<Activation>,
    written: Vec<(u64, Vec<u8>)>,
    fails: Arc<AtomicBool>,
}

impl VirtioDevice for Device {
    fn device_type(&self) -> u32 {
        42
    }

    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let from = usize::try_from(offset).unwrap().min(CONFIG.len());
        for (to, from) in data.iter_mut().zip(&CONFIG[from..]) {
            *to = *from;
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.written.push((offset, data.to_vec()));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(ActivateError::Queues(0, 0));
        }
        self.activations.send(activation).unwrap();
        Ok(())
    }
}

/// A transport and what its driver and its device see.
struct Bench {
    transport: MmioTransport,
    activations: Receiver<Activation>,
    fails: Arc<AtomicBool>,
    line: EventFd,
}

impl Bench {
    fn new() -> Self {
        let (sender, activations) = channel();
        let fails = Arc::new(AtomicBool::new(false));
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let device = Device {
            activations: sender,
            written: Vec::new(),
            fails: Arc::clone(&fails),
        };
        let wiring = Wiring {
            memory: memory::allocate(&[(GuestAddress(0), MEMORY_SIZE)], MemoryBacking::default()).unwrap(),
            line: line.try_clone().unwrap(),
            kicks: SIZES
                .iter()
                .map(|_| EventFd::new(EFD_NONBLOCK).unwrap())
                .collect(),
        };
        let transport = MmioTransport::new(Box::new(device), wiring).unwrap();
        Bench {
            transport,
            activations,
            fails,
            line,
        }
    }

    fn read(&mut self, register: u32) -> u32 {
        let mut data = [0xaa; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    fn status(&mut self) -> u32 {
        self.read(register::VIRTIO_MMIO_STATUS)
    }

    fn add_status(&mut self, bits: u32) {
        let status = self.status();
        self.write(register::VIRTIO_MMIO_STATUS, status | bits);
    }

    fn choose(&mut self, features: u64) {
        for page in 0..2 {
            self.write(register::VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            self.write(
                register::VIRTIO_MMIO_DRIVER_FEATURES,
                ((features >> (32 * page)) & 0xffff_ffff) as u32,
            );
        }
    }

    /// As far as the agreement on features.
    fn negotiate(&mut self, features: u64) {
        self.write(register::VIRTIO_MMIO_STATUS, 0);
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(VIRTIO_CONFIG_S_DRIVER);
        self.choose(features);
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
    }

    fn set_up_queue(&mut self, index: u32, size: u32, address: u32) {
        self.write(register::VIRTIO_MMIO_QUEUE_SEL, index);
        self.write(register::VIRTIO_MMIO_QUEUE_NUM, size);
        for (register, offset) in [
            (register::VIRTIO_MMIO_QUEUE_DESC_LOW, 0),
            (register::VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x1000),
            (register::VIRTIO_MMIO_QUEUE_USED_LOW, 0x2000),
        ] {
            self.write(register, address + offset);
            self.write(register + 4, 0);
        }
        self.write(register::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// All that Linux does until the driver is ready.
    fn start(&mut self) {
        self.negotiate(FEATURES | 1 << VIRTIO_F_VERSION_1);
        self.set_up_queue(0, 16, 0x1_0000);
        self.set_up_queue(1, 8, 0x2_0000);
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    }
}

#[test]
fn a_driver_finds_the_device() {
    let mut bench = Bench::new();
    assert_eq!(
        &bench.read(register::VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(),
        b"virt"
    );
    assert_eq!(bench.read(register::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(bench.read(register::VIRTIO_MMIO_DEVICE_ID), 42);
    let mut offered = 0;
    for page in [0, 1, 2] {
        bench.write(register::VIRTIO_MMIO_DEVICE_FEATURES_SEL, page);
        offered |= u128::from(bench.read(register::VIRTIO_MMIO_DEVICE_FEATURES)) << (32 * page);
    }
    assert_eq!(offered, u128::from(FEATURES | 1 << VIRTIO_F_VERSION_1));
    assert_eq!(
        bench.read(register::VIRTIO_MMIO_SHM_LEN_LOW),
        u32::MAX,
        "no shared memory"
    );
    for (queue, size) in [(0, 16), (1, 64), (2, 0), (u32::MAX, 0)] {
        bench.write(register::VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(bench.read(register::VIRTIO_MMIO_QUEUE_NUM_MAX), size);
    }
}

#[test]
fn a_ready_driver_activates_the_device_once() {
    let mut bench = Bench::new();
    bench.start();
    assert_eq!(
        bench.status(),
        STARTED | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK
    );
    let activation = bench.activations.try_recv().unwrap();
    assert_eq!(activation.features, FEATURES | 1 << VIRTIO_F_VERSION_1);
    let sizes: Vec<_> = activation
        .queues
        .iter()
        .map(|active| active.queue.size())
        .collect();
    assert_eq!(sizes, [16, 8]);
    assert!(
        activation
            .queues
            .iter()
            .all(|active| active.queue.event_idx_enabled())
    );
    assert_eq!(activation.queues[1].queue.used_ring(), 0x2_2000);
    bench.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    assert!(bench.activations.try_recv().is_err());
}

#[test]
fn interrupts_say_why_until_acknowledged() {
    let mut bench = Bench::new();
    bench.start();
    let interrupt = bench.activations.try_recv().unwrap().interrupt;
    interrupt.used_ring();
    interrupt.configuration_changed();
    assert_eq!(bench.line.read().unwrap(), 2);
    assert_eq!(bench.read(register::VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    bench.write(register::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(bench.read(register::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    assert_eq!(bench.read(register::VIRTIO_MMIO_CONFIG_GENERATION), 1);
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    for features in [0, FEATURES, 1 << VIRTIO_F_VERSION_1 | 1 << 6, u64::MAX] {
        let mut bench = Bench::new();
        bench.negotiate(features);
        assert_eq!(bench.status(), STARTED, "{features:#x}");
        bench.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        assert_eq!(bench.status(), STARTED);
        assert!(bench.activations.try_recv().is_err());
    }
}

#[test]
fn features_are_settled_once_agreed_on() {
    let mut bench = Bench::new();
    bench.negotiate(1 << VIRTIO_F_VERSION_1);
    bench.choose(u64::MAX);
    bench.set_up_queue(0, 16, 0x1_0000);
    bench.set_up_queue(1, 8, 0x2_0000);
    bench.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    assert_eq!(
        bench.activations.try_recv().unwrap().features,
        1 << VIRTIO_F_VERSION_1
    );
}

#[test]
fn queues_that_make_no_sense_ask_for_a_reset_and_can_be_mended() {
    let mut bench = Bench::new();
    bench.negotiate(1 << VIRTIO_F_VERSION_1);
    bench.set_up_queue(0, 16, 0x1_0000);
    // The second one lies behind the end of memory.
    bench.set_up_queue(1, 8, 0x0fff_0000);
    bench.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    assert_ne!(bench.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    assert_eq!(
        bench.read(register::VIRTIO_MMIO_INTERRUPT_STATUS),
        Interrupt::CONFIGURATION
    );
    assert!(bench.activations.try_recv().is_err());
    bench.start();
    assert!(bench.activations.try_recv().is_ok());
}

#[test]
fn a_ready_queue_does_not_change() {
    let mut bench = Bench::new();
    bench.negotiate(1 << VIRTIO_F_VERSION_1);
    bench.set_up_queue(0, 16, 0x1_0000);
    bench.write(register::VIRTIO_MMIO_QUEUE_NUM, 2);
    bench.write(register::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x9_0000);
    bench.set_up_queue(1, 8, 0x2_0000);
    bench.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    let queue = &bench.activations.try_recv().unwrap().queues[0].queue;
    assert_eq!((queue.size(), queue.desc_table()), (16, 0x1_0000));
}

#[test]
fn a_device_that_fails_asks_for_a_reset_and_stays_silent() {
    let mut bench = Bench::new();
    bench.fails.store(true, Ordering::SeqCst);
    bench.start();
    assert_ne!(bench.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    bench.fails.store(false, Ordering::SeqCst);
    bench.start();
    assert_eq!(bench.status() & VIRTIO_CONFIG_S_FEATURES_OK, 0);
    assert!(bench.activations.try_recv().is_err());
}

#[test]
fn a_device_whose_driver_has_gone_stays_silent() {
    let mut bench = Bench::new();
    bench.start();
    bench.activations.try_recv().unwrap();
    bench.write(register::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(bench.status(), 0);
    bench.start();
    assert_eq!(bench.status() & VIRTIO_CONFIG_S_FEATURES_OK, 0);
    assert!(bench.activations.try_recv().is_err());
}

#[test]
fn status_bits_are_cleared_by_a_reset_alone() {
    let mut bench = Bench::new();
    bench.add_status(STARTED);
    bench.write(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    assert_eq!(bench.status(), STARTED);
    bench.write(register::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(bench.status(), 0);
}

#[test]
fn the_configuration_takes_accesses_of_any_size() {
    let mut bench = Bench::new();
    let mut data = [0xaa; 8];
    bench.transport.read(CONFIGURATION + 2, &mut data);
    assert_eq!(&data, b"nfig\0\0\0\0");
    let mut byte = [0xaa];
    bench.transport.read(0xfff, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn registers_take_aligned_words_alone() {
    let mut bench = Bench::new();
    let mut half = [0xaa; 2];
    bench.transport.read(0, &mut half);
    assert_eq!(half, [0, 0]);
    assert_eq!(bench.read(2), 0);
    bench.transport.write(register::VIRTIO_MMIO_STATUS.into(), &[1]);
    assert_eq!(bench.status(), 0);
}

/// One access of a driver that means no good, most often to a register that exists.
fn access() -> impl Strategy<Value = (bool, u64, Vec<u8>)> {
    let offset = prop_oneof![
        4 => (0u64..0x44).prop_map(|register| register * 4),
        1 => 0u64..0x1000,
    ];
    let value = prop_oneof![
        2 => prop::sample::select(vec![0u32, 1, 3, 11, 15, 16, 0x1_0000, 0x1_1000, 0x1_2000, u32::MAX]),
        1 => any::<u32>(),
    ];
    let data = prop_oneof![
        4 => value.prop_map(|value| value.to_le_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    (any::<bool>(), offset, data)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_sequence_of_accesses_breaks_it(accesses in prop::collection::vec(access(), 0..400), starts_at in 0usize..400) {
        let mut bench = Bench::new();
        for (step, (write, offset, mut data)) in accesses.into_iter().enumerate() {
            if step == starts_at {
                bench.start();
            }
            if write {
                bench.transport.write(offset, &data);
            } else {
                bench.transport.read(offset, &mut data);
            }
            let status = bench.status();
            prop_assert!(status & VIRTIO_CONFIG_S_DRIVER_OK == 0 || status & VIRTIO_CONFIG_S_FEATURES_OK != 0);
        }
        let activations: Vec<_> = bench.activations.try_iter().collect();
        prop_assert!(activations.len() <= 1);
        for active in activations.iter().flat_map(|activation| &activation.queues) {
            prop_assert!(active.queue.is_valid(&activations[0].memory));
        }
    }
}
