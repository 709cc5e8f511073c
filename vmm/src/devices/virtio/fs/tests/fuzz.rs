//! Requests that no kernel would send.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::OutHeader;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::client::{Client, read};
use crate::devices::virtio::mock_driver::{self, MEMORY_SIZE, Served};

/// Names that are there, names that lead out, names that are none.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"file\0".to_vec()),
        Just(b"folder\0".to_vec()),
        Just(b"out\0".to_vec()),
        Just(b"canary\0".to_vec()),
        Just(b"..\0".to_vec()),
        Just(b"../canary\0".to_vec()),
        Just(b"out/canary\0".to_vec()),
        Just(b"file".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

/// Numbers as the fields of requests have them: inodes and handles that exist, bits, limits, anything.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..6u64,
        (0..64u32).prop_map(|bit| 1 << bit),
        Just(u64::MAX),
        any::<u64>()
    ]
}

/// A request: operation, inode, user, the fields and the names after the head, by how much the head's length is wrong.
fn request() -> impl Strategy<Value = (u32, u64, u32, Vec<u64>, Vec<Vec<u8>>, i32)> {
    (
        prop_oneof![9 => 0..54u32, 1 => any::<u32>()],
        number(),
        prop_oneof![3 => Just(0), 1 => any::<u32>()],
        proptest::collection::vec(number(), 0..8),
        proptest::collection::vec(name(), 0..3),
        prop_oneof![8 => Just(0), 1 => -60..60i32, 1 => any::<i32>()],
    )
}

/// A folder in a folder: what is beside it must not change.
fn lay_out(outside: &Path) -> std::path::PathBuf {
    let folder = outside.join("shared");
    fs::create_dir(&folder).unwrap();
    fs::create_dir(folder.join("folder")).unwrap();
    fs::write(folder.join("file"), "file").unwrap();
    fs::write(outside.join("canary"), "canary").unwrap();
    symlink(outside, folder.join("out")).unwrap();
    symlink(outside.join("canary"), folder.join("canary")).unwrap();
    folder
}

fn check_outside(outside: &Path) {
    let mut names: Vec<_> = fs::read_dir(outside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["canary", "shared"]);
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"canary");
    let metadata = fs::metadata(outside.join("canary")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&metadata), 1);
}

/// A reply is whole, belongs to its request and says an error or has a body; or there is none.
fn check_reply(served: &Served, unique: u64) {
    if served.written == 0 {
        return;
    }
    let header: OutHeader = read(&served.output[..16]);
    assert_eq!(header.len, served.written);
    assert_eq!(header.unique, unique);
    assert!(served.written as usize <= served.output.len());
    assert!((-4095..=0).contains(&header.error));
}

fn run(cases: u32, test: impl FnOnce(&mut TestRunner) + Send) {
    std::thread::scope(|scope| {
        // A failing case is shown, not kept in a file: the working directory is no place for one.
        let config = Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        };
        scope.spawn(|| test(&mut TestRunner::new(config)));
    });
}

#[test]
fn random_conversations_stay_inside() {
    run(100, |runner| {
        let conversations = proptest::collection::vec(request(), 1..40);
        let outcome = runner.run(&conversations, |requests| {
            let outside = tempfile::tempdir().unwrap();
            let folder = lay_out(outside.path());
            let mut client = Client::new(&folder);
            client.init(!(1 << 30));
            for (opcode, inode, user, fields, names, wrong) in requests {
                let fields: Vec<u8> = fields.iter().flat_map(|field| field.to_ne_bytes()).collect();
                let names = names.concat();
                client.as_user(user, user);
                let mut header = client.header(opcode, inode, fields.len() + names.len());
                header.len = header.len.wrapping_add_signed(wrong);
                let input = [header.as_slice(), &fields, &names];
                let served = mock_driver::serve(client.service(), &input, &[16, 4096]);
                check_reply(&served, header.unique);
            }
            check_outside(outside.path());
            Ok(())
        });
        outcome.unwrap();
    });
}

#[test]
fn random_bytes_and_descriptors_are_survived() {
    run(300, |runner| {
        let outside = tempfile::tempdir().unwrap();
        let folder = lay_out(outside.path());
        let client = RefCell::new(Client::new(&folder));
        let address = prop_oneof![0x10_0000..MEMORY_SIZE as u64, any::<u64>()];
        let length = prop_oneof![0..8192u32, any::<u32>()];
        let descriptors = proptest::collection::vec((address, length, any::<bool>()), 1..8);
        let bytes = proptest::collection::vec(any::<u8>(), 0..200);
        let outcome = runner.run(
            &(descriptors, bytes, 0..54u8),
            |(descriptors, mut bytes, opcode)| {
                // Else hardly any of it would be a request.
                if let Some(low) = bytes.get_mut(4..8) {
                    low.copy_from_slice(&u32::from(opcode).to_ne_bytes());
                }
                let memory = mock_driver::memory();
                for &(address, ..) in &descriptors {
                    let _ = memory.write(&bytes, GuestAddress(address));
                }
                mock_driver::serve_raw(client.borrow_mut().service(), &memory, &descriptors);
                Ok(())
            },
        );
        outcome.unwrap();
        check_outside(outside.path());
    });
}

#[test]
fn a_reply_without_room_is_none() {
    super::client::with_folder(|client, _| {
        let header = client.header(3, 1, 16);
        let input = [header.as_slice(), &[0; 16]];
        assert_eq!(mock_driver::serve(client.service(), &input, &[15]).written, 0);
        assert_eq!(mock_driver::serve(client.service(), &input, &[]).written, 0);
        // There is room to say that there is no room.
        let served = mock_driver::serve(client.service(), &input, &[16]);
        check_reply(&served, header.unique);
        assert_eq!(served.written, 16);
    });
}
