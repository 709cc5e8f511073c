//! Folders: making and listing them, and being in them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::process::{fchdir, getcwd};

use super::{Named, Outcome, all, ended, facts};

pub const OPERATIONS: &[Named] = &[
    ("make a folder", make),
    ("count folders in a folder", count_links),
    ("list an empty folder", list_empty),
    ("list a folder with all kinds of entries", list_kinds),
    ("list 1000 entries", list_many),
    ("remove entries while listing", remove_while_listing),
    ("start listing again", rewind),
    ("open relative to a folder", relative),
    ("be in a folder that is removed", removed),
    ("list a folder that is removed", list_removed),
];

fn make(folder: &Path) -> Outcome {
    fs::create_dir(folder.join("folder"))?;
    all([
        facts(&folder.join("folder"))?,
        ended(fs::create_dir(folder.join("folder"))),
        ended(fs::create_dir(folder.join("missing/folder"))),
    ])
}

fn count_links(folder: &Path) -> Outcome {
    for name in ["a", "b", "c"] {
        fs::create_dir(folder.join(name))?;
    }
    let three = fs::metadata(folder)?.nlink();
    fs::remove_dir(folder.join("b"))?;
    all([three.to_string(), fs::metadata(folder)?.nlink().to_string()])
}

/// All names as the kernel lists them.
fn raw_names(folder: &Path) -> Result<Vec<String>, super::Failure> {
    let mut names = Vec::new();
    for entry in Dir::read_from(File::open(folder)?)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn list_empty(folder: &Path) -> Outcome {
    all(raw_names(folder)?)
}

fn list_kinds(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "")?;
    fs::create_dir(folder.join("folder"))?;
    std::os::unix::fs::symlink("x", folder.join("link"))?;
    nix::unistd::mkfifo(&folder.join("pipe"), nix::sys::stat::Mode::S_IRUSR).map_err(std::io::Error::from)?;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let same_number = entry.ino() == fs::symlink_metadata(entry.path())?.ino();
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, format!("{:?} {same_number}", entry.file_type()?));
    }
    Ok(format!("{found:?}"))
}

fn list_many(folder: &Path) -> Outcome {
    for number in 0..1000 {
        File::create(folder.join(format!("entry number {number}")))?;
    }
    let names = raw_names(folder)?;
    let mut unique = names.clone();
    unique.dedup();
    let missing = (0..1000).filter(|number| names.binary_search(&format!("entry number {number}")).is_err());
    Ok(format!("{} {} {}", names.len(), unique.len(), missing.count()))
}

fn remove_while_listing(folder: &Path) -> Outcome {
    for number in 0..200 {
        File::create(folder.join(number.to_string()))?;
    }
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    all(raw_names(folder)?)
}

fn rewind(folder: &Path) -> Outcome {
    fs::write(folder.join("first"), "")?;
    let mut listing = Dir::read_from(File::open(folder)?)?;
    let before = listing.by_ref().count();
    fs::write(folder.join("second"), "")?;
    listing.rewind();
    all([before.to_string(), listing.count().to_string()])
}

fn relative(folder: &Path) -> Outcome {
    fs::create_dir(folder.join("a"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let inner = openat(File::open(folder)?, "a", flags, Mode::empty())?;
    let made = openat(
        &inner,
        "file",
        OFlags::CREATE | OFlags::WRONLY,
        Mode::from_raw_mode(0o640),
    )?;
    drop(made);
    let above = openat(&inner, "../a/file", OFlags::RDONLY, Mode::empty());
    all([ended(above), facts(&folder.join("a/file"))?])
}

fn removed(folder: &Path) -> Outcome {
    let home = File::open(".")?;
    fs::create_dir(folder.join("a"))?;
    fchdir(File::open(folder.join("a"))?)?;
    fs::remove_dir(folder.join("a"))?;
    let endings = [
        ended(getcwd(Vec::new())),
        ended(File::create("file")),
        ended(fs::metadata(".")),
    ];
    fchdir(home)?;
    all(endings)
}

fn list_removed(folder: &Path) -> Outcome {
    fs::create_dir(folder.join("a"))?;
    let open = File::open(folder.join("a"))?;
    fs::remove_dir(folder.join("a"))?;
    Ok(Dir::read_from(open)?.count().to_string())
}
