//! L1's saved state: booted once per (kernel, command line, pid 1, QEMU, memory size), kept in the cache.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use serde_json::json;

use super::kernel::Kernel;
use super::qemu::{CPU, Direction, KERNEL_COMMAND_LINE, Machine, Qemu};
use super::{Error, cache, initramfs, tool};
use crate::l1::boot::SAVE_POINT;

/// How long the boot to be saved may take; it takes 4 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// How many states stay in the cache. Each takes some 130 MB.
const KEPT: usize = 6;

/// A state in the cache.
pub struct Saved {
    folder: PathBuf,
}

impl Saved {
    /// The state for these parts, made if the cache has none. Call with the cache locked.
    ///
    /// # Errors
    /// L1 does not boot or cannot be saved.
    pub fn get(init: &Path, kernel: &Kernel, memory_mib: u32) -> Result<Self, Error> {
        let states = cache::folder()?.join("saved");
        fs::create_dir_all(&states).map_err(Error::file(&states))?;
        let folder = states.join(key(init, kernel, memory_mib)?);
        if folder.exists() {
            return Ok(Self { folder });
        }
        eprintln!("testbed: booting L1 once to save its state (about 10 seconds)");
        let scratch = tempfile::tempdir_in(&states).map_err(Error::file(&states))?;
        let saved = Self {
            folder: scratch.path().to_owned(),
        };
        initramfs::write(&saved.initramfs(), init, kernel)?;
        saved.boot_and_save(kernel, memory_mib)?;
        remove_oldest(&states);
        fs::rename(scratch.keep(), &folder).map_err(Error::file(&folder))?;
        Ok(Self { folder })
    }

    /// The initramfs L1 booted with.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs.cpio")
    }

    /// The state of L1's devices and CPU.
    pub fn state(&self) -> Result<File, Error> {
        let path = self.folder.join("state");
        File::open(&path).map_err(Error::file(&path))
    }

    /// Copies L1's memory, which is sparse, into `to`.
    pub fn copy_memory(&self, to: &File) -> Result<(), Error> {
        let path = self.folder.join("memory");
        File::open(&path)
            .and_then(|from| copy_sparse(&from, to))
            .map_err(Error::file(&path))
    }

    fn boot_and_save(&self, kernel: &Kernel, memory_mib: u32) -> Result<(), Error> {
        let memory = Qemu::memory(memory_mib).map_err(Error::file("L1's memory"))?;
        let initramfs = self.initramfs();
        let machine = Machine {
            memory_mib,
            kernel: &kernel.image(),
            initramfs: &initramfs,
            incoming: false,
            shares: &[],
        };
        let mut qemu = Qemu::start(&machine, &memory)?;
        let give_up = Instant::now() + BOOT_LIMIT;
        while !qemu.console().contains(SAVE_POINT) {
            let what = match (qemu.is_running(), Instant::now() < give_up) {
                (true, true) => {
                    thread::sleep(Duration::from_millis(50));
                    continue;
                }
                (true, false) => format!("not within {BOOT_LIMIT:?}"),
                (false, _) => "QEMU ended".to_owned(),
            };
            return Err(Error::Boot {
                what,
                console: qemu.console(),
            });
        }
        // Let what the boot left to do settle, so that no L1 has to do it again.
        thread::sleep(Duration::from_secs(1));
        qemu.execute("stop", &json!({}))?;
        let state = self.folder.join("state");
        qemu.migrate(
            Direction::Out,
            &File::create(&state).map_err(Error::file(&state))?,
        )?;
        let copy = self.folder.join("memory");
        File::create(&copy)
            .and_then(|to| copy_sparse(&memory, &to))
            .map_err(Error::file(&copy))
    }
}

fn key(init: &Path, kernel: &Kernel, memory_mib: u32) -> Result<String, Error> {
    let mut hash = DefaultHasher::new();
    fs::read(init).map_err(Error::file(init))?.hash(&mut hash);
    kernel.release.hash(&mut hash);
    kernel.module_files()?.hash(&mut hash);
    memory_mib.hash(&mut hash);
    KERNEL_COMMAND_LINE.hash(&mut hash);
    CPU.hash(&mut hash);
    tool::output(Command::new("qemu-system-x86_64").arg("--version"))?.hash(&mut hash);
    Ok(format!("{:016x}", hash.finish()))
}

fn remove_oldest(states: &Path) {
    let Ok(entries) = fs::read_dir(states) else { return };
    let mut states: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    states.sort();
    let surplus = states.len().saturating_sub(KEPT);
    for (_, state) in states.drain(..surplus) {
        // One that stays only takes room.
        let _ = fs::remove_dir_all(state);
    }
}

/// Copies what is data and leaves holes where there is none.
fn copy_sparse(mut from: &File, mut to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut position = 0;
    loop {
        let data = match lseek(from.as_fd(), position, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let hole = lseek(from.as_fd(), data, Whence::SeekHole)?;
        lseek(from.as_fd(), data, Whence::SeekSet)?;
        lseek(to.as_fd(), data, Whence::SeekSet)?;
        let bytes = u64::try_from(hole - data).map_err(io::Error::other)?;
        io::copy(&mut io::Read::take(&mut from, bytes), &mut to)?;
        position = hole;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn holes_stay_holes() {
        let from = tempfile::tempfile().unwrap();
        let to = tempfile::tempfile().unwrap();
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"middle", 32 << 20).unwrap();
        from.write_all_at(b"end", (64 << 20) - 3).unwrap();
        copy_sparse(&from, &to).unwrap();
        let mut read = [0; 6];
        to.read_exact_at(&mut read, 32 << 20).unwrap();
        assert_eq!(&read, b"middle");
        to.read_exact_at(&mut read, (64 << 20) - 6).unwrap();
        assert_eq!(&read, b"\0\0\0end");
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        assert!(
            to.metadata().unwrap().blocks() * 512 < 1 << 20,
            "the copy is sparse"
        );
    }
}
