use std::fs;
use std::os::unix::fs::MetadataExt;

use fuse_backend_rs::abi::fuse_abi::{ATTR_SUBMOUNT, EntryOut};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::client::{Client, ROOT, error, with_folder};

const NONE: Option<&str> = None;

/// Mounts of this thread are its own.
fn leave_mount_namespace() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
}

fn is_mount(entry: &EntryOut) -> bool {
    entry.attr.flags & ATTR_SUBMOUNT != 0
}

#[test]
fn mounts_with_equal_inode_numbers_are_different() {
    with_folder(|client, folder| {
        leave_mount_namespace();
        for name in ["one", "two"] {
            let path = folder.join(name);
            fs::create_dir(&path).unwrap();
            mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
            fs::write(path.join("file"), name).unwrap();
        }
        // The client looks with the root's descriptor of before the mounts, as the device does.
        let numbers = |name: &str| fs::metadata(folder.join(name).join("file")).unwrap().ino();
        assert_eq!(numbers("one"), numbers("two"));

        let plain = client.mkdir(ROOT, b"plain", 0o700, 0).unwrap();
        assert!(!is_mount(&plain));
        *client = Client::new(folder);
        let mut seen = Vec::new();
        for name in ["one", "two"] {
            let mounted = client.lookup(ROOT, name.as_bytes()).unwrap();
            assert!(is_mount(&mounted));
            let file = client.lookup(mounted.nodeid, b"file").unwrap();
            assert!(!is_mount(&file));
            let open = client.open(file.nodeid, libc::O_RDONLY).unwrap();
            assert_eq!(client.read(file.nodeid, open.fh, 0, 10).unwrap(), name.as_bytes());
            seen.push(file.nodeid);
        }
        assert_ne!(seen[0], seen[1]);
    });
}

#[test]
fn a_later_mount_is_seen_and_can_be_given_up() {
    with_folder(|client, folder| {
        leave_mount_namespace();
        *client = Client::new(folder);
        let path = folder.join("volume");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("below"), "").unwrap();
        let before = client.lookup(ROOT, b"volume").unwrap();
        assert!(!is_mount(&before));

        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        let after = client.lookup(ROOT, b"volume").unwrap();
        assert!(is_mount(&after));
        assert_ne!(after.nodeid, before.nodeid);
        assert_eq!(client.lookup(after.nodeid, b"below").unwrap().nodeid, 0);
        assert_eq!(
            client.mkdir(after.nodeid, b"made", 0o700, 0).unwrap().attr.mode,
            0o040_700
        );
        assert!(path.join("made").exists());

        // While the guest knows an inode in it, the mount is busy.
        assert_eq!(umount2(&path, MntFlags::empty()), Err(nix::errno::Errno::EBUSY));
        client
            .do_it(fuse_backend_rs::abi::fuse_abi::Opcode::Destroy, 0, &[])
            .unwrap();
        umount2(&path, MntFlags::empty()).unwrap();
    });
}

#[test]
fn one_folder_mounted_twice_keeps_the_mounts_options_apart() {
    with_folder(|client, folder| {
        leave_mount_namespace();
        let volume = tempfile::tempdir().unwrap();
        for (name, flags) in [("rw", MsFlags::empty()), ("ro", MsFlags::MS_RDONLY)] {
            let path = folder.join(name);
            fs::create_dir(&path).unwrap();
            mount(Some(volume.path()), &path, NONE, MsFlags::MS_BIND, NONE).unwrap();
            mount(
                NONE,
                &path,
                NONE,
                MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags,
                NONE,
            )
            .unwrap();
        }
        *client = Client::new(folder);
        let writable = client.lookup(ROOT, b"rw").unwrap().nodeid;
        let read_only = client.lookup(ROOT, b"ro").unwrap().nodeid;
        client.mkdir(writable, b"folder", 0o700, 0).unwrap();
        assert_eq!(error(client.mkdir(read_only, b"other", 0o700, 0)), libc::EROFS);
        assert_ne!(client.lookup(read_only, b"folder").unwrap().nodeid, 0);
    });
}
