use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use fuse_backend_rs::abi::fuse_abi::{
    AttrOut, CreateIn, EntryOut, FallocateIn, ForgetIn, GetattrIn, GetxattrIn, GetxattrOut, LinkIn, LseekIn,
    LseekOut, Opcode, ReleaseIn, Rename2In, SetattrIn, SetxattrIn, WriteIn, WriteOut,
};
use libc::{
    EBADF, EEXIST, EINVAL, ENODATA, ENOENT, ENOSYS, ERANGE, ESTALE, O_APPEND, O_CREAT, O_EXCL, O_RDONLY,
    O_RDWR, O_SYNC, O_TRUNC, O_WRONLY,
};
use vm_memory::ByteValued;

use super::client::{Client, ROOT, Reply, error, read, with_folder};
use crate::devices::virtio::fs::request::{CopyFileRangeIn, CreateOut, StatxOut};

const SYNCFS: u32 = 50;
const TMPFILE: u32 = 51;
const STATX: u32 = 52;
const KEEP_CACHE: u32 = 2;

#[test]
fn negotiates_what_it_does() {
    with_folder(|client, _| {
        let reply = client.init(!(1 << 30));
        let has = |bit: u32| reply.flags & (1 << bit) != 0;
        // POSIX and flock locks, and the write-back cache, stay out.
        assert!(!has(1) && !has(10) && !has(16));
        // Masks are applied here, ACLs are respected, mounts are announced.
        assert!(has(6) && has(20) && has(27));
        assert_eq!((reply.max_pages, reply.max_write), (256, 1 << 20));
    });
}

#[test]
fn writes_and_reads_a_new_file() {
    with_folder(|client, folder| {
        let (entry, open) = client
            .create(ROOT, b"file", O_RDWR | O_CREAT | O_EXCL, 0o100_666)
            .unwrap();
        assert_eq!(client.write(entry.nodeid, open.fh, 0, b"hello").unwrap(), 5);
        assert_eq!(client.write(entry.nodeid, open.fh, 5, b" world").unwrap(), 6);
        assert_eq!(client.read(entry.nodeid, open.fh, 6, 100).unwrap(), b"world");
        assert_eq!(client.read(entry.nodeid, open.fh, 11, 100).unwrap(), b"");
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"hello world");
        // The request's mask was 022.
        assert_eq!(
            fs::metadata(folder.join("file")).unwrap().permissions().mode(),
            0o100_644
        );
        assert_eq!(
            error(client.create(ROOT, b"file", O_RDWR | O_CREAT | O_EXCL, 0o100_666)),
            EEXIST
        );
    });
}

#[test]
fn creating_opens_what_is_there() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "old").unwrap();
        let (entry, open) = client
            .create(ROOT, b"file", O_RDWR | O_CREAT | O_TRUNC, 0o100_666)
            .unwrap();
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"");
        client.write(entry.nodeid, open.fh, 0, b"new").unwrap();
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"new");
        fs::create_dir(folder.join("folder")).unwrap();
        assert_eq!(
            error(client.create(ROOT, b"folder", O_RDWR | O_CREAT, 0o100_666)),
            ESTALE
        );
    });
}

#[test]
fn remembers_that_there_is_no_entry() {
    with_folder(|client, folder| {
        let entry = client.lookup(ROOT, b"file").unwrap();
        assert_eq!((entry.nodeid, entry.entry_valid), (0, 1));
        fs::write(folder.join("file"), "").unwrap();
        assert_ne!(client.lookup(ROOT, b"file").unwrap().nodeid, 0);
    });
}

#[test]
fn one_inode_has_one_number_until_it_is_forgotten() {
    with_folder(|client, folder| {
        fs::write(folder.join("a"), "").unwrap();
        fs::hard_link(folder.join("a"), folder.join("b")).unwrap();
        let first = client.lookup(ROOT, b"a").unwrap().nodeid;
        assert_eq!(client.lookup(ROOT, b"b").unwrap().nodeid, first);
        forget(client, first, 1);
        assert_eq!(client.lookup(ROOT, b"a").unwrap().nodeid, first);
        forget(client, first, 2);
        assert_eq!(error(getattr(client, first)), ESTALE);
        assert_ne!(client.lookup(ROOT, b"a").unwrap().nodeid, first);
        forget(client, ROOT, u64::MAX);
        assert!(getattr(client, ROOT).is_ok());
    });
}

#[test]
fn an_unlinked_file_lives_while_it_is_known() {
    with_folder(|client, folder| {
        let (entry, open) = client.create(ROOT, b"file", O_RDWR | O_CREAT, 0o100_600).unwrap();
        client.do_it(Opcode::Unlink, ROOT, &[b"file\0"]).unwrap();
        assert!(!folder.join("file").exists());
        client.write(entry.nodeid, open.fh, 0, b"still").unwrap();
        let other = client.open(entry.nodeid, O_RDONLY).unwrap();
        assert_eq!(client.read(entry.nodeid, other.fh, 0, 10).unwrap(), b"still");
        assert_eq!(getattr(client, entry.nodeid).unwrap().attr.nlink, 0);
        release(client, entry.nodeid, open.fh).unwrap();
        assert_eq!(error(client.read(entry.nodeid, open.fh, 0, 10)), EBADF);
        assert_eq!(error(release(client, ROOT, other.fh)), EBADF);
    });
}

#[test]
fn a_large_write_arrives_whole() {
    with_folder(|client, folder| {
        let bytes: Vec<u8> = (0..75_000u32).flat_map(u32::to_le_bytes).collect();
        for (name, flags) in [("pieces", O_RDWR), ("whole", O_RDWR | O_APPEND | O_SYNC)] {
            let (entry, open) = client
                .create(ROOT, name.as_bytes(), flags | O_CREAT, 0o100_600)
                .unwrap();
            let body = WriteIn {
                fh: open.fh,
                offset: if flags == O_RDWR { 5 } else { 0 },
                size: u32::try_from(bytes.len()).unwrap(),
                flags: flags.cast_unsigned(),
                ..WriteIn::default()
            };
            let reply: WriteOut = client
                .ask(Opcode::Write, entry.nodeid, &[body.as_slice(), &bytes])
                .unwrap();
            assert_eq!(reply.size, body.size);
            let start = usize::try_from(body.offset).unwrap();
            assert!(fs::read(folder.join(name)).unwrap()[start..] == bytes, "{name}");
        }
    });
}

#[test]
fn appends_whatever_the_offset() {
    with_folder(|client, folder| {
        fs::write(folder.join("log"), "one ").unwrap();
        let inode = client.lookup(ROOT, b"log").unwrap().nodeid;
        let open = client.open(inode, O_WRONLY | O_APPEND).unwrap();
        let write = |client: &mut Client, data: &[u8], flags: i32| {
            let body = WriteIn {
                fh: open.fh,
                size: u32::try_from(data.len()).unwrap(),
                flags: flags.cast_unsigned(),
                ..WriteIn::default()
            };
            client
                .ask::<WriteOut>(Opcode::Write, inode, &[body.as_slice(), data])
                .unwrap();
        };
        write(client, b"two", O_WRONLY | O_APPEND);
        assert_eq!(fs::read(folder.join("log")).unwrap(), b"one two");
        // The process has taken O_APPEND back with fcntl.
        write(client, b"ONE", O_WRONLY);
        assert_eq!(fs::read(folder.join("log")).unwrap(), b"ONE two");
    });
}

#[test]
fn keeps_the_pages_of_a_file_that_has_not_changed() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "one").unwrap();
        let inode = client.lookup(ROOT, b"file").unwrap().nodeid;
        assert_eq!(client.open(inode, O_RDONLY).unwrap().open_flags, 0);
        assert_eq!(client.open(inode, O_RDONLY).unwrap().open_flags, KEEP_CACHE);
        fs::write(folder.join("file"), "three").unwrap();
        assert_eq!(client.open(inode, O_RDONLY).unwrap().open_flags, 0);
        assert_eq!(client.open(inode, O_RDONLY).unwrap().open_flags, KEEP_CACHE);
    });
}

#[test]
fn changes_attributes() {
    with_folder(|client, folder| {
        let path = folder.join("file");
        fs::write(&path, "0123456789").unwrap();
        let inode = client.lookup(ROOT, b"file").unwrap().nodeid;
        let mut set = |valid: u32, change: SetattrIn| {
            client.ask::<AttrOut>(
                Opcode::Setattr,
                inode,
                &[SetattrIn { valid, ..change }.as_slice()],
            )
        };
        let mode = set(
            1,
            SetattrIn {
                mode: 0o106_751,
                ..SetattrIn::default()
            },
        )
        .unwrap();
        assert_eq!(mode.attr.mode, 0o106_751);
        let owner = set(
            6,
            SetattrIn {
                uid: 12,
                gid: 34,
                ..SetattrIn::default()
            },
        )
        .unwrap();
        // Changing the owner clears the bits, as it does for everyone.
        assert_eq!(
            (owner.attr.uid, owner.attr.gid, owner.attr.mode),
            (12, 34, 0o100_751)
        );
        assert_eq!(
            error(set(
                2,
                SetattrIn {
                    uid: u32::MAX,
                    ..SetattrIn::default()
                }
            )),
            EINVAL
        );
        assert_eq!(
            set(
                8,
                SetattrIn {
                    size: 4,
                    ..SetattrIn::default()
                }
            )
            .unwrap()
            .attr
            .size,
            4
        );
        assert_eq!(
            error(set(
                8,
                SetattrIn {
                    size: u64::MAX,
                    ..SetattrIn::default()
                }
            )),
            libc::EFBIG
        );
        let times = SetattrIn {
            atime: 100,
            atimensec: 5,
            mtime: 200,
            mtimensec: 6,
            ..SetattrIn::default()
        };
        let attr = set(0x30, times).unwrap().attr;
        assert_eq!(
            (attr.atime, attr.atimensec, attr.mtime, attr.mtimensec),
            (100, 5, 200, 6)
        );
        assert!(set(0x120, SetattrIn::default()).unwrap().attr.mtime > 200);
        assert_eq!(fs::read(&path).unwrap(), b"0123");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    });
}

#[test]
fn links_files_and_links() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "x").unwrap();
        let inode = client.lookup(ROOT, b"file").unwrap().nodeid;
        let link = |client: &mut Client, inode, name: &[u8]| {
            let body = LinkIn { oldnodeid: inode };
            client.ask::<EntryOut>(Opcode::Link, ROOT, &[body.as_slice(), name, &[0]])
        };
        let entry = link(client, inode, b"second").unwrap();
        assert_eq!((entry.nodeid, entry.attr.nlink), (inode, 2));
        let symlink: EntryOut = client.ask(Opcode::Symlink, ROOT, &[b"link\0/nowhere\0"]).unwrap();
        assert_eq!(symlink.attr.mode, 0o120_777);
        assert_eq!(
            client
                .call(Opcode::Readlink as u32, symlink.nodeid, &[], 100)
                .unwrap(),
            b"/nowhere"
        );
        assert_eq!(
            link(client, symlink.nodeid, b"another").unwrap().nodeid,
            symlink.nodeid
        );
        assert_eq!(
            fs::read_link(folder.join("another")).unwrap().to_str(),
            Some("/nowhere")
        );
        assert_eq!(error(link(client, inode, b"link")), EEXIST);
    });
}

#[test]
fn renames_with_flags() {
    with_folder(|client, folder| {
        fs::write(folder.join("a"), "a").unwrap();
        fs::write(folder.join("b"), "b").unwrap();
        let mut rename = |flags: u32, names: &[u8]| {
            let body = Rename2In {
                newdir: ROOT,
                flags,
                padding: 0,
            };
            client.do_it(Opcode::Rename2, ROOT, &[body.as_slice(), names])
        };
        assert_eq!(error(rename(libc::RENAME_NOREPLACE, b"a\0b\0")), EEXIST);
        rename(libc::RENAME_EXCHANGE, b"a\0b\0").unwrap();
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"b");
        rename(0, b"a\0b\0").unwrap();
        assert_eq!(fs::read(folder.join("b")).unwrap(), b"b");
        assert_eq!(error(rename(0, b"a\0b\0")), ENOENT);
        assert_eq!(error(rename(0, b"b\0../b\0")), EINVAL);
    });
}

#[test]
fn has_extended_attributes() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "").unwrap();
        let inode = client.lookup(ROOT, b"file").unwrap().nodeid;
        let set = SetxattrIn { size: 5, flags: 0 };
        client
            .do_it(Opcode::Setxattr, inode, &[set.as_slice(), b"user.name\0value"])
            .unwrap();
        let get = |client: &mut Client, opcode, name: &[u8], size| {
            let body = GetxattrIn { size, padding: 0 };
            client.call(opcode as u32, inode, &[body.as_slice(), name], 1 << 17)
        };
        assert_eq!(
            get(client, Opcode::Getxattr, b"user.name\0", 100).unwrap(),
            b"value"
        );
        let count: GetxattrOut = read(&get(client, Opcode::Getxattr, b"user.name\0", 0).unwrap());
        assert_eq!(count.size, 5);
        assert_eq!(error(get(client, Opcode::Getxattr, b"user.name\0", 4)), ERANGE);
        // A hostile size is no reason to take that much memory.
        assert_eq!(
            get(client, Opcode::Getxattr, b"user.name\0", u32::MAX).unwrap(),
            b"value"
        );
        assert_eq!(
            get(client, Opcode::Listxattr, b"", u32::MAX).unwrap(),
            b"user.name\0"
        );
        client
            .do_it(Opcode::Removexattr, inode, &[b"user.name\0"])
            .unwrap();
        assert_eq!(error(get(client, Opcode::Getxattr, b"user.name\0", 100)), ENODATA);
    });
}

#[test]
fn makes_holes_and_finds_them() {
    with_folder(|client, folder| {
        let (entry, open) = client.create(ROOT, b"file", O_RDWR | O_CREAT, 0o100_600).unwrap();
        client.write(entry.nodeid, open.fh, 0, &[1; 64 << 10]).unwrap();
        let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
        let body = FallocateIn {
            fh: open.fh,
            offset: 0,
            length: 32 << 10,
            mode,
            padding: 0,
        };
        client
            .do_it(Opcode::Fallocate, entry.nodeid, &[body.as_slice()])
            .unwrap();
        assert_eq!(fs::read(folder.join("file")).unwrap()[..32 << 10], [0; 32 << 10]);
        let mut seek = |offset, whence: i32| {
            let body = LseekIn {
                fh: open.fh,
                offset,
                whence: whence.cast_unsigned(),
                padding: 0,
            };
            client
                .ask::<LseekOut>(Opcode::Lseek, entry.nodeid, &[body.as_slice()])
                .map(|out| out.offset)
        };
        assert_eq!(seek(0, libc::SEEK_DATA), Ok(32 << 10));
        assert_eq!(seek(40 << 10, libc::SEEK_HOLE), Ok(64 << 10));
        assert_eq!(error(seek(0, libc::SEEK_SET)), EINVAL);
        assert_eq!(error(seek(u64::MAX, libc::SEEK_DATA)), libc::ENXIO);
    });
}

#[test]
fn copies_on_the_host() {
    with_folder(|client, folder| {
        fs::write(folder.join("from"), "0123456789").unwrap();
        let from = client.lookup(ROOT, b"from").unwrap().nodeid;
        let from_handle = client.open(from, O_RDONLY).unwrap().fh;
        let (to, open) = client.create(ROOT, b"to", O_RDWR | O_CREAT, 0o100_600).unwrap();
        let mut body = CopyFileRangeIn {
            from_handle,
            from_offset: 2,
            to_inode: to.nodeid,
            to_handle: open.fh,
            to_offset: 1,
            length: u64::MAX,
            flags: 0,
        };
        let copied: WriteOut = client
            .ask(Opcode::CopyFileRange, from, &[body.as_slice()])
            .unwrap();
        assert_eq!(copied.size, 8);
        assert_eq!(fs::read(folder.join("to")).unwrap(), b"\x0023456789");
        body.to_handle = 1000;
        assert_eq!(
            error(client.ask::<WriteOut>(Opcode::CopyFileRange, from, &[body.as_slice()])),
            EBADF
        );
    });
}

#[test]
fn makes_a_file_without_a_name_and_names_it() {
    with_folder(|client, folder| {
        let args = CreateIn {
            flags: O_RDWR as u32,
            mode: 0o100_640,
            umask: 0,
            fuse_flags: 0,
        };
        let reply = client
            .call(TMPFILE, ROOT, &[args.as_slice(), b"#1\0"], 144)
            .unwrap();
        let CreateOut { entry, open } = read(&reply);
        assert_eq!((entry.attr.nlink, entry.attr.mode), (0, 0o100_640));
        client.write(entry.nodeid, open.fh, 0, b"x").unwrap();
        let body = LinkIn {
            oldnodeid: entry.nodeid,
        };
        let linked: EntryOut = client
            .ask(Opcode::Link, ROOT, &[body.as_slice(), b"named\0"])
            .unwrap();
        assert_eq!(linked.nodeid, entry.nodeid);
        assert_eq!(fs::read(folder.join("named")).unwrap(), b"x");
    });
}

#[test]
fn knows_the_time_of_birth() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "12345").unwrap();
        let metadata = fs::metadata(folder.join("file")).unwrap();
        let inode = client.lookup(ROOT, b"file").unwrap().nodeid;
        let reply = client
            .call(STATX, inode, &[&[0; 24]], size_of::<StatxOut>())
            .unwrap();
        let statx: StatxOut = read(&reply);
        assert_eq!(
            (statx.inode, statx.size, u32::from(statx.mode)),
            (metadata.ino(), 5, metadata.mode())
        );
        assert_eq!(statx.times[3].seconds, metadata.mtime());
        if let Ok(birth) = metadata.created() {
            let seconds = birth.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            assert_eq!(statx.times[1].seconds, i64::try_from(seconds).unwrap());
        }
    });
}

#[test]
fn syncs_and_says_what_it_does_not_do() {
    with_folder(|client, _| {
        client.call(SYNCFS, ROOT, &[&[0; 8]], 0).unwrap();
        assert_eq!(
            client.call(Opcode::Flush as u32, ROOT, &[&[0; 24]], 0),
            Err(ENOSYS)
        );
        assert_eq!(
            client.call(Opcode::Ioctl as u32, ROOT, &[&[0; 32]], 100),
            Err(ENOSYS)
        );
        assert_eq!(error(client.call(0, ROOT, &[], 0)), ENOSYS);
        assert_eq!(error(client.call(u32::MAX, ROOT, &[], 0)), ENOSYS);
    });
}

#[test]
fn starts_afresh_after_an_unmount() {
    with_folder(|client, folder| {
        fs::write(folder.join("file"), "x").unwrap();
        let inode = client.lookup(ROOT, b"file").unwrap().nodeid;
        let open = client.open(inode, O_RDONLY).unwrap();
        client.do_it(Opcode::Destroy, 0, &[]).unwrap();
        assert_eq!(error(client.read(inode, open.fh, 0, 1)), EBADF);
        assert_eq!(error(getattr(client, inode)), ESTALE);
        assert_ne!(client.lookup(ROOT, b"file").unwrap().nodeid, inode);
    });
}

#[test]
fn sees_what_the_host_writes() {
    with_folder(|client, folder| {
        let (entry, open) = client.create(ROOT, b"file", O_RDWR | O_CREAT, 0o100_600).unwrap();
        let file = fs::OpenOptions::new()
            .write(true)
            .open(folder.join("file"))
            .unwrap();
        file.write_all_at(b"from the host", 0).unwrap();
        assert_eq!(
            client.read(entry.nodeid, open.fh, 0, 100).unwrap(),
            b"from the host"
        );
        assert_eq!(getattr(client, entry.nodeid).unwrap().attr.size, 13);
    });
}

fn getattr(client: &mut Client, inode: u64) -> Reply<AttrOut> {
    client.ask(Opcode::Getattr, inode, &[GetattrIn::default().as_slice()])
}

fn release(client: &mut Client, inode: u64, fh: u64) -> Reply<()> {
    client.do_it(
        Opcode::Release,
        inode,
        &[ReleaseIn {
            fh,
            ..ReleaseIn::default()
        }
        .as_slice()],
    )
}

/// A request that has no reply.
fn forget(client: &mut Client, inode: u64, nlookup: u64) {
    let header = client.header(Opcode::Forget as u32, inode, 8);
    let body = ForgetIn { nlookup };
    let request: [&[u8]; 2] = [header.as_slice(), body.as_slice()];
    let served = crate::devices::virtio::mock_driver::serve(client.service(), &request, &[]);
    assert_eq!(served.written, 0);
}
