//! Trees of small files.

use std::fs::{self, DirEntry, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::stat::{SFlag, lstat};

use super::time;

/// Makes folders with empty files.
pub fn make(path: &Path, folders: u32, files: u32) -> io::Result<()> {
    for folder in 0..folders {
        let folder = path.join(format!("folder-{folder:04}"));
        fs::create_dir_all(&folder)?;
        for file in 0..files {
            File::create(folder.join(format!("file-{file:06}")))?;
        }
    }
    Ok(())
}

/// How long it takes to list every folder and to look at everything that is in it, as `git status` does; after a pause, of the
/// second time.
pub fn walk(path: &Path, pause: Option<Duration>) -> io::Result<Duration> {
    if let Some(pause) = pause {
        visit(path)?;
        thread::sleep(pause);
    }
    time(|| visit(path).map(drop))
}

/// How long it takes to read all names in a folder.
pub fn list(path: &Path) -> io::Result<Duration> {
    time(|| fs::read_dir(path)?.try_for_each(|entry| entry.map(drop)))
}

/// Answers how much there is.
fn visit(folder: &Path) -> io::Result<u64> {
    let mut entries: Vec<DirEntry> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    // git looks in the order of its index.
    entries.sort_by_key(DirEntry::file_name);
    let mut seen = 0;
    for entry in entries {
        let path = entry.path();
        seen += 1;
        // The standard library would ask for the time of birth as well, which no guest remembers of a file.
        let kind = SFlag::from_bits_truncate(lstat(&path)?.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            seen += visit(&path)?;
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_visited() {
        let folder = tempfile::tempdir().expect("a folder");
        make(folder.path(), 3, 5).expect("made");
        assert_eq!(visit(folder.path()).expect("visited"), 3 + 3 * 5);
        walk(folder.path(), Some(Duration::ZERO)).expect("walked");
        list(folder.path()).expect("listed");
        walk(&folder.path().join("nothing"), None).expect_err("it is not there");
    }
}
