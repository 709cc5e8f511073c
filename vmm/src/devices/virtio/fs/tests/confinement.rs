use std::fs;
use std::os::unix::fs::symlink;

use fuse_backend_rs::abi::fuse_abi::{EntryOut, LinkIn, MkdirIn, Opcode};
use libc::{EBADF, EINVAL, ENOTDIR, O_CREAT, O_RDWR};
use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use vm_memory::ByteValued;

use super::client::{ROOT, error, with_folder};
use crate::devices::virtio::fs::HostView;

#[test]
fn a_name_is_one_component() {
    with_folder(|client, folder| {
        let inner = client.mkdir(ROOT, b"inner", 0o700, 0).unwrap().nodeid;
        fs::write(folder.join("file"), "").unwrap();
        let file = client.lookup(ROOT, b"file").unwrap().nodeid;
        for name in [&b""[..], b".", b"..", b"/", b"../file", b"/etc", b"a/b", b"file/"] {
            for parent in [ROOT, inner] {
                assert_eq!(error(client.lookup(parent, name)), EINVAL, "{name:?}");
                assert_eq!(error(client.mkdir(parent, name, 0o700, 0)), EINVAL, "{name:?}");
                assert_eq!(
                    error(client.create(parent, name, O_RDWR | O_CREAT, 0o600)),
                    EINVAL,
                    "{name:?}"
                );
                assert_eq!(
                    error(client.do_it(Opcode::Unlink, parent, &[name, &[0]])),
                    EINVAL,
                    "{name:?}"
                );
                assert_eq!(
                    error(client.do_it(Opcode::Rmdir, parent, &[name, &[0]])),
                    EINVAL,
                    "{name:?}"
                );
                let rename = [&inner.to_ne_bytes()[..], b"file\0", name, &[0]];
                assert_eq!(
                    error(client.do_it(Opcode::Rename, ROOT, &rename)),
                    EINVAL,
                    "{name:?}"
                );
                let link = LinkIn { oldnodeid: file };
                let linked = client.ask::<EntryOut>(Opcode::Link, parent, &[link.as_slice(), name, &[0]]);
                assert_eq!(error(linked), EINVAL, "{name:?}");
            }
        }
        // What comes after the name's end is not looked at, and a name without an end is none.
        assert_eq!(client.lookup(ROOT, b"file\0/../x").unwrap().nodeid, file);
        let request: &[&[u8]] = &[
            MkdirIn {
                mode: 0o700,
                umask: 0,
            }
            .as_slice(),
            b"endless",
        ];
        assert_eq!(
            error(client.call(Opcode::Mkdir as u32, ROOT, request, 128)),
            EINVAL
        );
    });
}

#[test]
fn a_link_is_never_followed() {
    with_folder(|client, folder| {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path(), folder.join("to folder")).unwrap();
        symlink(outside.path().join("secret"), folder.join("to file")).unwrap();
        symlink(outside.path().join("new"), folder.join("to nothing")).unwrap();

        let to_folder = client.lookup(ROOT, b"to folder").unwrap();
        assert_eq!(to_folder.attr.mode, 0o120_777);
        assert_eq!(error(client.lookup(to_folder.nodeid, b"secret")), ENOTDIR);
        assert_eq!(error(client.mkdir(to_folder.nodeid, b"x", 0o700, 0)), ENOTDIR);
        assert_eq!(error(client.opendir(to_folder.nodeid)), EBADF);
        let to_file = client.lookup(ROOT, b"to file").unwrap();
        assert_eq!(error(client.open(to_file.nodeid, O_RDWR)), EBADF);
        assert_eq!(
            error(client.create(ROOT, b"to file", O_RDWR | O_CREAT, 0o600)),
            libc::ESTALE
        );
        assert_eq!(
            error(client.create(ROOT, b"to nothing", O_RDWR | O_CREAT, 0o600)),
            libc::ESTALE
        );
        let names: Vec<_> = fs::read_dir(outside.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    });
}

/// A detached copy of `/proc/self/fd` shows nothing else of `/proc`.
#[test]
fn the_folder_of_descriptors_is_all_there_is() {
    std::thread::spawn(|| {
        let folder = HostView::prepare().unwrap().into_descriptors();
        let open = |name: &str| openat(&folder, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        let above = open("..").unwrap();
        assert_eq!(fstat(&above).unwrap().st_ino, fstat(&folder).unwrap().st_ino);
        assert_eq!(open("../status").unwrap_err(), Errno::NOENT);
        assert_eq!(open("../../self").unwrap_err(), Errno::NOENT);
        assert!(open("0").is_ok());
    })
    .join()
    .unwrap();
}
