//! Pipes, sockets and device nodes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, Dev, FileType, Mode, makedev, mknodat};

use super::{Named, Outcome, all, ended, facts};

pub const OPERATIONS: &[Named] = &[
    ("a pipe", pipe),
    ("a pipe without a reader", pipe_without_reader),
    ("a socket", socket),
    ("device nodes", devices),
    ("a regular file by mknod", regular),
    ("a path-only descriptor", path_only),
];

fn node(path: &Path, kind: FileType, device: Dev) -> rustix::io::Result<()> {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device)
}

fn pipe(folder: &Path) -> Outcome {
    let path = folder.join("pipe");
    node(&path, FileType::Fifo, 0)?;
    let seen = thread::scope(|scope| {
        scope.spawn(|| fs::write(&path, "through the pipe"));
        fs::read_to_string(&path)
    })?;
    all([facts(&path)?, seen])
}

fn pipe_without_reader(folder: &Path) -> Outcome {
    node(&folder.join("pipe"), FileType::Fifo, 0)?;
    let open = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(folder.join("pipe"));
    all([ended(open)])
}

fn socket(folder: &Path) -> Outcome {
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path)?;
    let again = ended(UnixListener::bind(&path));
    let mut said = String::new();
    thread::scope(|scope| {
        scope.spawn(|| UnixStream::connect(&path).and_then(|mut stream| stream.write_all(b"hello")));
        listener.accept()?.0.read_to_string(&mut said)
    })?;
    drop(listener);
    all([
        facts(&path)?,
        again,
        said,
        ended(UnixStream::connect(&path)),
        ended(File::open(&path)),
    ])
}

fn devices(folder: &Path) -> Outcome {
    let mut seen = Vec::new();
    for (name, kind, device) in [
        ("char", FileType::CharacterDevice, makedev(1, 3)),
        ("block", FileType::BlockDevice, makedev(259, 1000)),
        ("whiteout", FileType::CharacterDevice, 0),
    ] {
        match node(&folder.join(name), kind, device) {
            Ok(()) => {
                let status = fs::symlink_metadata(folder.join(name))?;
                seen.push(format!("{:o} {}", status.mode(), status.rdev()));
            }
            Err(error) => seen.push(super::Failure::from(error).to_string()),
        }
    }
    all(seen)
}

fn regular(folder: &Path) -> Outcome {
    node(&folder.join("file"), FileType::RegularFile, 0)?;
    all([
        facts(&folder.join("file"))?,
        ended(node(&folder.join("file"), FileType::RegularFile, 0)),
    ])
}

fn path_only(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "data")?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(folder.join("file"))?;
    let mut byte = [0];
    all([file.metadata()?.len().to_string(), ended((&file).read(&mut byte))])
}
