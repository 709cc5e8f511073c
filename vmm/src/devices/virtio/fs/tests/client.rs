//! The guest's kernel's side of FUSE.

use std::path::Path;
use std::thread;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, EntryOut, InHeader, InitIn, InitOut, MkdirIn, Opcode, OpenIn, OpenOut, OutHeader, ReadIn,
    WriteIn, WriteOut,
};
use rustix::fs::{CWD, Mode, OFlags, openat};
use tempfile::TempDir;
use vm_memory::ByteValued;

use crate::devices::virtio::fs::HostView;
use crate::devices::virtio::fs::passthrough::Passthrough;
use crate::devices::virtio::fs::service::FilesystemService;
use crate::devices::virtio::mock_driver;

pub const ROOT: u64 = 1;

/// A file system over a folder, and who asks for things.
pub struct Client {
    service: FilesystemService,
    pub uid: u32,
    pub gid: u32,
    unique: u64,
}

/// What a request came to: the reply's body, or the error's number.
pub type Reply<T> = Result<T, i32>;

/// Runs `test` with a file system over a fresh folder, on a thread of its own: the thread's working directory, mask and
/// capabilities are not what they were afterwards.
pub fn with_folder(test: impl FnOnce(&mut Client, &Path) + Send) {
    let folder = TempDir::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| test(&mut Client::new(folder.path()), folder.path()));
    });
}

impl Client {
    /// Serves that folder from this thread, which must serve nothing else.
    pub fn new(folder: &Path) -> Self {
        let descriptors = HostView::prepare()
            .expect("the tests run as root")
            .into_descriptors();
        let root = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let files = Passthrough::new(root, descriptors).unwrap();
        Client {
            service: FilesystemService::new(files),
            uid: 0,
            gid: 0,
            unique: 0,
        }
    }

    pub fn service(&mut self) -> &mut FilesystemService {
        &mut self.service
    }

    /// The same file system, used by someone else.
    pub fn as_user(&mut self, uid: u32, gid: u32) -> &mut Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// A request's head.
    pub fn header(&mut self, opcode: u32, inode: u64, body: usize) -> InHeader {
        self.unique += 1;
        InHeader {
            len: u32::try_from(size_of::<InHeader>() + body).unwrap(),
            opcode,
            unique: self.unique,
            nodeid: inode,
            uid: self.uid,
            gid: self.gid,
            pid: 1,
            padding: 0,
        }
    }

    /// Sends a request and checks that the reply is well-formed.
    pub fn call(&mut self, opcode: u32, inode: u64, body: &[&[u8]], room: usize) -> Reply<Vec<u8>> {
        let header = self.header(opcode, inode, body.iter().map(|part| part.len()).sum());
        let mut input = vec![header.as_slice()];
        input.extend(body);
        let served = mock_driver::serve(&mut self.service, &input, &[size_of::<OutHeader>(), room]);
        let (head, reply) = served.output.split_at(size_of::<OutHeader>());
        let head: OutHeader = read(head);
        assert_eq!(head.unique, header.unique);
        assert_eq!(head.len, served.written);
        if head.error != 0 {
            assert_eq!(served.written as usize, size_of::<OutHeader>());
            return Err(-head.error);
        }
        Ok(reply[..served.written as usize - size_of::<OutHeader>()].to_vec())
    }

    /// Sends a request whose reply is of that type.
    pub fn ask<T: ByteValued + Default>(&mut self, opcode: Opcode, inode: u64, body: &[&[u8]]) -> Reply<T> {
        let reply = self.call(opcode as u32, inode, body, size_of::<T>())?;
        Ok(read(&reply))
    }

    /// Sends a request whose reply has no body.
    pub fn do_it(&mut self, opcode: Opcode, inode: u64, body: &[&[u8]]) -> Reply<()> {
        self.call(opcode as u32, inode, body, 0)
            .map(|reply| assert!(reply.is_empty()))
    }

    pub fn init(&mut self, flags: u32) -> InitOut {
        let body = InitIn {
            major: 7,
            minor: 40,
            max_readahead: 1 << 17,
            flags,
        };
        self.ask(Opcode::Init, 0, &[body.as_slice()]).unwrap()
    }

    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Reply<EntryOut> {
        self.ask(Opcode::Lookup, parent, &[name, &[0]])
    }

    pub fn mkdir(&mut self, parent: u64, name: &[u8], mode: u32, umask: u32) -> Reply<EntryOut> {
        self.ask(
            Opcode::Mkdir,
            parent,
            &[MkdirIn { mode, umask }.as_slice(), name, &[0]],
        )
    }

    pub fn create(&mut self, parent: u64, name: &[u8], flags: i32, mode: u32) -> Reply<(EntryOut, OpenOut)> {
        self.create_with(
            parent,
            name,
            CreateIn {
                flags: flags.cast_unsigned(),
                mode,
                umask: 0o022,
                fuse_flags: 0,
            },
        )
    }

    pub fn create_with(&mut self, parent: u64, name: &[u8], args: CreateIn) -> Reply<(EntryOut, OpenOut)> {
        let reply = self.call(Opcode::Create as u32, parent, &[args.as_slice(), name, &[0]], 144)?;
        Ok((read(&reply[..128]), read(&reply[128..])))
    }

    pub fn open(&mut self, inode: u64, flags: i32) -> Reply<OpenOut> {
        self.ask(
            Opcode::Open,
            inode,
            &[OpenIn {
                flags: flags.cast_unsigned(),
                fuse_flags: 0,
            }
            .as_slice()],
        )
    }

    pub fn opendir(&mut self, inode: u64) -> Reply<OpenOut> {
        self.ask(Opcode::Opendir, inode, &[OpenIn::default().as_slice()])
    }

    pub fn read(&mut self, inode: u64, fh: u64, offset: u64, size: u32) -> Reply<Vec<u8>> {
        let body = ReadIn {
            fh,
            offset,
            size,
            ..ReadIn::default()
        };
        self.call(Opcode::Read as u32, inode, &[body.as_slice()], size as usize)
    }

    pub fn write(&mut self, inode: u64, fh: u64, offset: u64, data: &[u8]) -> Reply<u32> {
        let body = WriteIn {
            fh,
            offset,
            size: u32::try_from(data.len()).unwrap(),
            ..WriteIn::default()
        };
        self.ask(Opcode::Write, inode, &[body.as_slice(), data])
            .map(|out: WriteOut| out.size)
    }
}

/// A reply's body as a structure.
pub fn read<T: ByteValued + Default>(bytes: &[u8]) -> T {
    let mut value = T::default();
    assert_eq!(bytes.len(), size_of::<T>());
    value.as_mut_slice().copy_from_slice(bytes);
    value
}

/// The error's number, or 0 if there is none.
pub fn error<T>(reply: Reply<T>) -> i32 {
    reply.err().unwrap_or(0)
}
