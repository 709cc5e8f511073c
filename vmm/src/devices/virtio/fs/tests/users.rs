use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use fuse_backend_rs::abi::fuse_abi::{
    AttrOut, EntryOut, Opcode, SetattrIn, WRITE_KILL_PRIV, WriteIn, WriteOut,
};
use libc::{EEXIST, EINVAL, O_CREAT, O_EXCL, O_RDWR, O_WRONLY};
use vm_memory::ByteValued;

use super::client::{ROOT, error, with_folder};

#[test]
fn what_a_user_makes_is_the_users() {
    with_folder(|client, folder| {
        let client = client.as_user(1000, 2000);
        client.create(ROOT, b"file", O_RDWR | O_CREAT, 0o100_600).unwrap();
        client.mkdir(ROOT, b"folder", 0o700, 0).unwrap();
        client
            .ask::<EntryOut>(Opcode::Symlink, ROOT, &[b"link\0target\0"])
            .unwrap();
        for name in ["file", "folder", "link"] {
            let metadata = fs::symlink_metadata(folder.join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1000, 2000), "{name}");
        }
        client.as_user(0, 0).mkdir(ROOT, b"root's", 0o700, 0).unwrap();
        assert_eq!(fs::metadata(folder.join("root's")).unwrap().uid(), 0);
    });
}

/// The guest's kernel has allowed it by a group of which the host knows nothing.
#[test]
fn a_user_may_do_what_the_guest_has_allowed() {
    with_folder(|client, folder| {
        let shared = folder.join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o2770)).unwrap();
        chown(&shared, Some(1), Some(3000)).unwrap();
        let parent = client.lookup(ROOT, b"shared").unwrap().nodeid;
        let (entry, _) = client
            .as_user(1000, 2000)
            .create(parent, b"file", O_RDWR | O_CREAT, 0o100_660)
            .unwrap();
        // The folder's setgid bit passes its group on.
        assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 3000));
    });
}

#[test]
fn nobody_is_refused_and_leaves_nothing() {
    with_folder(|client, folder| {
        for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX), (1000, u32::MAX)] {
            assert_eq!(
                error(client.as_user(uid, gid).mkdir(ROOT, b"folder", 0o700, 0)),
                EINVAL
            );
        }
        assert!(!folder.join("folder").exists());
        client.as_user(0, 0).mkdir(ROOT, b"folder", 0o700, 0).unwrap();
        assert_eq!(fs::metadata(folder.join("folder")).unwrap().uid(), 0);
    });
}

#[test]
fn a_failure_gives_the_thread_its_user_back() {
    with_folder(|client, folder| {
        client.mkdir(ROOT, b"folder", 0o700, 0).unwrap();
        assert_eq!(
            error(client.as_user(1000, 2000).mkdir(ROOT, b"folder", 0o700, 0)),
            EEXIST
        );
        let exclusive = O_RDWR | O_CREAT | O_EXCL;
        assert_eq!(
            error(client.create(ROOT, b"folder", exclusive, 0o100_600)),
            EEXIST
        );
        client.as_user(0, 0).mkdir(ROOT, b"next", 0o700, 0).unwrap();
        assert_eq!(fs::metadata(folder.join("next")).unwrap().uid(), 0);
    });
}

#[test]
fn a_write_without_privileges_clears_the_set_id_bits() {
    with_folder(|client, folder| {
        let path = folder.join("tool");
        let set_ids = || {
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
        };
        set_ids();
        let inode = client.lookup(ROOT, b"tool").unwrap().nodeid;
        let fh = client.open(inode, O_WRONLY).unwrap().fh;
        let mut write = |fuse_flags| {
            let body = WriteIn {
                fh,
                size: 1,
                fuse_flags,
                flags: O_WRONLY as u32,
                ..WriteIn::default()
            };
            client
                .ask::<WriteOut>(Opcode::Write, inode, &[body.as_slice(), b"y"])
                .unwrap();
            fs::metadata(&path).unwrap().mode() & 0o7777
        };
        assert_eq!(write(0), 0o6755);
        assert_eq!(write(WRITE_KILL_PRIV), 0o755);

        // Without the right to execute, the group's bit is cleared only for those outside the group.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2767)).unwrap();
        let client = client.as_user(1000, 1000);
        let body = WriteIn {
            fh,
            size: 1,
            fuse_flags: WRITE_KILL_PRIV,
            flags: O_WRONLY as u32,
            ..WriteIn::default()
        };
        client
            .ask::<WriteOut>(Opcode::Write, inode, &[body.as_slice(), b"y"])
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o767);

        set_ids();
        let size = |kill: u32| SetattrIn {
            valid: 8 | kill,
            size: 1,
            ..SetattrIn::default()
        };
        let mut truncate = |kill| {
            client
                .ask::<AttrOut>(Opcode::Setattr, inode, &[size(kill).as_slice()])
                .unwrap()
                .attr
                .mode
                & 0o7777
        };
        assert_eq!(truncate(0), 0o6755);
        assert_eq!(truncate(0x800), 0o755);
    });
}
