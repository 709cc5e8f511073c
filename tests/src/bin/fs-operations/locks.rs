//! Locks between descriptors of one kernel.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::{Named, Outcome, all, ended};

pub const OPERATIONS: &[Named] = &[("whole-file locks", whole_file), ("locks of ranges", ranges)];

fn whole_file(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "")?;
    let (one, two) = (File::open(folder.join("file"))?, File::open(folder.join("file"))?);
    let mut endings = vec![
        ended(flock(&one, FlockOperation::NonBlockingLockShared)),
        ended(flock(&two, FlockOperation::NonBlockingLockShared)),
        ended(flock(&two, FlockOperation::NonBlockingLockExclusive)),
    ];
    drop(one);
    endings.push(ended(flock(&two, FlockOperation::NonBlockingLockExclusive)));
    all(endings)
}

fn ranges(folder: &Path) -> Outcome {
    use nix::fcntl::{FcntlArg, fcntl};
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("file"))
    };
    let (one, two) = (open()?, open()?);
    let lock = |file: &File, kind: i32, start, length| {
        let lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start,
            l_len: length,
            l_pid: 0,
        };
        ended(fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map_err(std::io::Error::from))
    };
    all([
        lock(&one, libc::F_WRLCK, 0, 10),
        lock(&two, libc::F_WRLCK, 5, 10),
        lock(&two, libc::F_RDLCK, 10, 10),
        lock(&one, libc::F_UNLCK, 5, 5),
        lock(&two, libc::F_WRLCK, 5, 10),
    ])
}
