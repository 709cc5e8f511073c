use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode};
use rustix::fs::{CWD, Mode, OFlags, openat};
use vm_memory::ByteValued;

use crate::devices::virtio::fs::{Filesystem, HostView};
use crate::devices::virtio::mock_driver::MockDriver;
use crate::devices::virtio::{Interrupt, VirtioDevice};

fn device(folder: &Path) -> Filesystem {
    let root = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Filesystem::of("shared", root, HostView::prepare().unwrap()).unwrap()
}

/// On a thread of its own, since preparing changes the thread.
fn on_a_thread(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn the_configuration_space_says_the_tag() {
    on_a_thread(|| {
        let mut bytes = [0xff; 44];
        device(Path::new("/")).read_config(0, &mut bytes);
        assert_eq!(&bytes[..8], b"shared\0\0");
        assert_eq!(&bytes[36..], [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    });
}

#[test]
fn serves_both_queues_on_its_thread() {
    on_a_thread(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let working_directory = std::env::current_dir().unwrap();
        let driver = MockDriver::new(2);
        let mut device = device(folder.path());
        device.activate(driver.activation()).unwrap();

        let header = |opcode, length: u32| InHeader {
            len: 40 + length,
            opcode: opcode as u32,
            unique: 7,
            nodeid: 1,
            ..InHeader::default()
        };
        let lookup = header(Opcode::Lookup, 5);
        let request = driver.submit(1, &[lookup.as_slice(), b"file\0"], &[16, 128]);
        assert_eq!(driver.wait_for_interrupt(), Interrupt::USED_RING);
        let reply = driver.output(&request);
        assert_eq!(reply[..4], 144u32.to_ne_bytes());
        assert_eq!(reply[8..16], 7u64.to_ne_bytes());

        let forget = header(Opcode::Forget, 8);
        driver.submit(0, &[forget.as_slice(), &1u64.to_ne_bytes()], &[]);
        assert_eq!(driver.wait_for_interrupt(), Interrupt::USED_RING);
        assert_eq!((driver.used(0), driver.used(1)), (1, 1));
        assert!(device.activate(driver.activation()).is_err());
        drop(device);
        assert_eq!(std::env::current_dir().unwrap(), working_directory);
    });
}
