use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use fuse_backend_rs::abi::fuse_abi::{Dirent, EntryOut, MknodIn, Opcode, ReadIn};
use libc::{EBADF, EINVAL, ENOTDIR, ENOTEMPTY};
use vm_memory::ByteValued;

use super::client::{Client, ROOT, error, read, with_folder};

/// One entry as it is listed: the entry itself with `READDIRPLUS`, the inode number and the type.
struct Listed {
    entry: Option<EntryOut>,
    inode: u64,
    kind: u32,
}

/// Lists a folder to its end, `size` bytes at a time. Every name may come only once.
fn list(client: &mut Client, inode: u64, opcode: Opcode, size: u32) -> BTreeMap<Vec<u8>, Listed> {
    let fh = client.opendir(inode).unwrap().fh;
    let mut listed = BTreeMap::new();
    let mut offset = 0;
    loop {
        let body = ReadIn {
            fh,
            offset,
            size,
            ..ReadIn::default()
        };
        let reply = client
            .call(opcode as u32, inode, &[body.as_slice()], size as usize)
            .unwrap();
        if reply.is_empty() {
            return listed;
        }
        let mut rest = reply.as_slice();
        while !rest.is_empty() {
            let entry = matches!(opcode, Opcode::Readdirplus).then(|| {
                let entry = read(&rest[..size_of::<EntryOut>()]);
                rest = &rest[size_of::<EntryOut>()..];
                entry
            });
            let head: Dirent = read(&rest[..size_of::<Dirent>()]);
            let name = &rest[size_of::<Dirent>()..][..head.namelen as usize];
            let found = Listed {
                entry,
                inode: head.ino,
                kind: head.type_,
            };
            assert!(
                listed.insert(name.to_vec(), found).is_none(),
                "{name:?} came twice"
            );
            offset = head.off;
            rest = &rest[(size_of::<Dirent>() + head.namelen as usize).next_multiple_of(8)..];
        }
    }
}

#[test]
fn lists_what_the_host_lists() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "").unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        std::os::unix::fs::symlink("/", folder.join("link")).unwrap();
        let listed = list(client, ROOT, Opcode::Readdir, 4096);
        let names: Vec<_> = listed
            .keys()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        assert_eq!(names, [".", "..", "file", "folder", "link"]);
        for (name, kind) in [
            ("file", libc::DT_REG),
            ("folder", libc::DT_DIR),
            ("link", libc::DT_LNK),
        ] {
            let found = &listed[name.as_bytes()];
            assert_eq!(found.kind, u32::from(kind));
            assert_eq!(
                found.inode,
                fs::symlink_metadata(folder.join(name)).unwrap().ino()
            );
        }
    });
}

#[test]
fn lists_many_entries_the_first_thousand_with_their_attributes() {
    with_folder(|client, folder| {
        for number in 0..3000 {
            fs::write(folder.join(format!("a file with the number {number}")), "x").unwrap();
        }
        let listed = list(client, ROOT, Opcode::Readdirplus, 8192);
        assert_eq!(listed.len(), 3002);
        let mut with_attributes = 0;
        for (name, found) in &listed {
            let entry = found.entry.unwrap();
            if entry.nodeid != 0 {
                assert!(!name.starts_with(b"."));
                assert_eq!((entry.attr.ino, entry.attr.size), (found.inode, 1));
                with_attributes += 1;
            }
        }
        assert_eq!(with_attributes, 1000);
        // What has been listed has been looked up once, no more.
        let numbers: Vec<u64> = listed
            .values()
            .filter_map(|found| found.entry)
            .map(|entry| entry.nodeid)
            .collect();
        let body: Vec<u8> = numbers
            .iter()
            .flat_map(|number| [number.to_ne_bytes(), 1u64.to_ne_bytes()].concat())
            .collect();
        let count = [u32::try_from(numbers.len()).unwrap().to_ne_bytes(), [0; 4]].concat();
        let header = client.header(Opcode::BatchForget as u32, 0, 8 + body.len());
        let request: [&[u8]; 3] = [header.as_slice(), &count, &body];
        assert_eq!(
            crate::devices::virtio::mock_driver::serve(client.service(), &request, &[]).written,
            0
        );
        assert_eq!(client.service().remembered(), 0);
    });
}

#[test]
fn an_entry_that_goes_while_it_is_listed_does_no_harm() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "").unwrap();
        let fh = client.opendir(ROOT).unwrap().fh;
        fs::remove_file(folder.join("file")).unwrap();
        let body = ReadIn {
            fh,
            size: 4096,
            ..ReadIn::default()
        };
        assert!(
            client
                .call(Opcode::Readdirplus as u32, ROOT, &[body.as_slice()], 4096)
                .is_ok()
        );
        let body = ReadIn {
            fh,
            size: 1,
            ..ReadIn::default()
        };
        assert_eq!(
            error(client.call(Opcode::Readdirplus as u32, ROOT, &[body.as_slice()], 1)),
            EINVAL
        );
    });
}

#[test]
fn makes_and_removes_folders() {
    with_folder(|client, folder| {
        let made = client.mkdir(ROOT, b"folder", 0o777, 0o027).unwrap();
        assert_eq!(made.attr.mode, 0o040_750);
        client.mkdir(made.nodeid, b"inner", 0o700, 0).unwrap();
        assert_eq!(
            error(client.do_it(Opcode::Rmdir, ROOT, &[b"folder\0"])),
            ENOTEMPTY
        );
        client.do_it(Opcode::Rmdir, made.nodeid, &[b"inner\0"]).unwrap();
        client.do_it(Opcode::Rmdir, ROOT, &[b"folder\0"]).unwrap();
        assert!(!folder.join("folder").exists());
        fs::write(folder.join("file"), "").unwrap();
        let file = client.lookup(ROOT, b"file").unwrap().nodeid;
        assert_eq!(error(client.opendir(file)), ENOTDIR);
        assert_eq!(error(client.lookup(file, b"x")), ENOTDIR);
    });
}

#[test]
fn makes_special_files_but_never_opens_them() {
    with_folder(|client, folder| {
        for (name, mode, rdev) in [
            (b"pipe", libc::S_IFIFO, 0),
            (b"sock", libc::S_IFSOCK, 0),
            (b"null", libc::S_IFCHR, 0x103),
            (b"disk", libc::S_IFBLK, 0x700),
        ] {
            let body = MknodIn {
                mode: mode | 0o666,
                rdev,
                umask: 0o002,
                padding: 0,
            };
            let entry: EntryOut = client
                .ask(Opcode::Mknod, ROOT, &[body.as_slice(), name, &[0]])
                .unwrap();
            assert_eq!((entry.attr.mode, entry.attr.rdev), (mode | 0o664, rdev));
            assert_eq!(error(client.open(entry.nodeid, libc::O_RDONLY)), EBADF);
            let metadata = fs::symlink_metadata(folder.join(std::str::from_utf8(name).unwrap())).unwrap();
            assert_eq!(metadata.rdev(), u64::from(rdev));
        }
    });
}

#[test]
fn default_acls_come_before_the_mask() {
    with_folder(|client, folder| {
        // user::rwx, group::rwx, other::r-x as the folder's default, in the kernel's binary form.
        let entry = |tag: u16, permissions: u16| {
            [
                &tag.to_le_bytes()[..],
                &permissions.to_le_bytes(),
                &u32::MAX.to_le_bytes(),
            ]
            .concat()
        };
        let acl = [vec![2, 0, 0, 0], entry(1, 7), entry(4, 7), entry(0x20, 5)].concat();
        let path = folder.to_str().unwrap();
        let set = rustix::fs::setxattr(
            path,
            "system.posix_acl_default",
            &acl,
            rustix::fs::XattrFlags::empty(),
        );
        if set == Err(rustix::io::Errno::OPNOTSUPP) {
            // The file system below has no ACLs.
            return;
        }
        set.unwrap();
        assert_eq!(
            client.mkdir(ROOT, b"folder", 0o777, 0o077).unwrap().attr.mode & 0o777,
            0o775
        );
    });
}
