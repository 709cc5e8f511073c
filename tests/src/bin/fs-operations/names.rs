//! Entries: making, linking, renaming and removing them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Named, Outcome, all, ended, facts};

pub const OPERATIONS: &[Named] = &[
    ("create a file", create),
    ("create a file that is there", create_exclusively),
    ("open what is not there", open_missing),
    ("open a folder for writing", open_folder),
    ("use a file as a folder", file_as_folder),
    ("names of 255 and 256 bytes", long_names),
    ("names that are not text", odd_names),
    ("a path of 4096 bytes", long_path),
    ("hard link", hard_link),
    ("hard link of a symbolic link", link_of_link),
    ("hard link of a folder", link_of_folder),
    ("symbolic link", symbolic_link),
    ("a ring of symbolic links", ring),
    ("a symbolic link to nothing", dangling),
    ("refuse to follow a symbolic link", no_follow),
    ("rename over a file", rename_over),
    ("rename without replacing", rename_no_replace),
    ("rename by exchange", rename_exchange),
    ("rename a folder into itself", rename_into_itself),
    ("rename over a full folder", rename_over_full),
    ("rename a file over a folder", rename_file_over_folder),
    ("rename one link to another of the same file", rename_same_file),
    ("rename an open file", rename_open),
    ("unlink an open file", unlink_open),
    ("unlink a folder, remove a file", wrong_kind),
];

fn create(folder: &Path) -> Outcome {
    File::create(folder.join("file"))?;
    facts(&folder.join("file"))
}

fn create_exclusively(folder: &Path) -> Outcome {
    File::create_new(folder.join("file"))?;
    let again = File::create_new(folder.join("file"));
    symlink("nowhere", folder.join("link"))?;
    all([ended(again), ended(File::create_new(folder.join("link")))])
}

fn open_missing(folder: &Path) -> Outcome {
    all([
        ended(File::open(folder.join("file"))),
        ended(File::create(folder.join("folder/file"))),
        ended(fs::remove_file(folder.join("file"))),
    ])
}

fn open_folder(folder: &Path) -> Outcome {
    all([
        ended(OpenOptions::new().write(true).open(folder)),
        ended(
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(folder),
        ),
        ended(File::open(folder)),
    ])
}

fn file_as_folder(folder: &Path) -> Outcome {
    File::create(folder.join("file"))?;
    let as_folder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(folder.join("file"));
    all([
        ended(File::open(folder.join("file/below"))),
        ended(fs::read_dir(folder.join("file"))),
        ended(as_folder),
        ended(File::open(folder.join("file/"))),
    ])
}

fn long_names(folder: &Path) -> Outcome {
    all([
        ended(File::create(folder.join("n".repeat(255)))),
        ended(File::create(folder.join("n".repeat(256)))),
        ended(fs::create_dir(folder.join("n".repeat(256)))),
        ended(File::open(folder.join("n".repeat(256)))),
    ])
}

fn odd_names(folder: &Path) -> Outcome {
    use std::os::unix::ffi::OsStrExt;
    let names: [&[u8]; 5] = [b"\xff\xfe", b" ", b"\n", b"...", b"-"];
    let mut endings = Vec::new();
    for name in names {
        let path = folder.join(std::ffi::OsStr::from_bytes(name));
        endings.push(ended(File::create_new(&path)));
        endings.push(ended(fs::remove_file(&path)));
    }
    all(endings)
}

fn long_path(folder: &Path) -> Outcome {
    all([ended(File::open(folder.join("x/".repeat(2100))))])
}

fn hard_link(folder: &Path) -> Outcome {
    fs::write(folder.join("a"), "data")?;
    fs::hard_link(folder.join("a"), folder.join("b"))?;
    let again = ended(fs::hard_link(folder.join("a"), folder.join("b")));
    fs::write(folder.join("b"), "changed")?;
    let both = format!(
        "{} {}",
        fs::read_to_string(folder.join("a"))?,
        facts(&folder.join("a"))?
    );
    fs::remove_file(folder.join("a"))?;
    all([again, both, facts(&folder.join("b"))?])
}

fn link_of_link(folder: &Path) -> Outcome {
    symlink("nowhere", folder.join("link"))?;
    fs::hard_link(folder.join("link"), folder.join("second"))?;
    all([
        facts(&folder.join("second"))?,
        fs::read_link(folder.join("second"))?.display().to_string(),
    ])
}

fn link_of_folder(folder: &Path) -> Outcome {
    fs::create_dir(folder.join("folder"))?;
    all([ended(fs::hard_link(folder.join("folder"), folder.join("link")))])
}

fn symbolic_link(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "data")?;
    symlink("file", folder.join("link"))?;
    let target = fs::read_link(folder.join("link"))?.display().to_string();
    let no_link = ended(fs::read_link(folder.join("file")));
    let too_long = ended(symlink("x".repeat(5000), folder.join("long")));
    all([
        target,
        fs::read_to_string(folder.join("link"))?,
        facts(&folder.join("link"))?,
        no_link,
        too_long,
    ])
}

fn ring(folder: &Path) -> Outcome {
    symlink("b", folder.join("a"))?;
    symlink("a", folder.join("b"))?;
    all([ended(File::open(folder.join("a")))])
}

fn dangling(folder: &Path) -> Outcome {
    symlink("target", folder.join("link"))?;
    let before = ended(File::open(folder.join("link")));
    fs::write(folder.join("link"), "through")?;
    all([before, fs::read_to_string(folder.join("target"))?])
}

fn no_follow(folder: &Path) -> Outcome {
    symlink("target", folder.join("link"))?;
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(folder.join("link"));
    all([ended(open)])
}

fn rename_over(folder: &Path) -> Outcome {
    fs::write(folder.join("a"), "a")?;
    fs::write(folder.join("b"), "b")?;
    fs::rename(folder.join("a"), folder.join("b"))?;
    all([
        fs::read_to_string(folder.join("b"))?,
        ended(File::open(folder.join("a"))),
        ended(fs::rename(folder.join("a"), folder.join("c"))),
    ])
}

fn rename_no_replace(folder: &Path) -> Outcome {
    fs::write(folder.join("a"), "a")?;
    fs::write(folder.join("b"), "b")?;
    let rename = |to| {
        renameat_with(
            CWD,
            folder.join("a"),
            CWD,
            folder.join(to),
            RenameFlags::NOREPLACE,
        )
    };
    all([
        ended(rename("b")),
        ended(rename("c")),
        fs::read_to_string(folder.join("c"))?,
    ])
}

fn rename_exchange(folder: &Path) -> Outcome {
    fs::write(folder.join("a"), "a")?;
    fs::create_dir(folder.join("b"))?;
    let exchange = |to| renameat_with(CWD, folder.join("a"), CWD, folder.join(to), RenameFlags::EXCHANGE);
    exchange("b")?;
    all([
        fs::read_to_string(folder.join("b"))?,
        facts(&folder.join("a"))?,
        ended(exchange("c")),
    ])
}

fn rename_into_itself(folder: &Path) -> Outcome {
    fs::create_dir_all(folder.join("a/b"))?;
    all([ended(fs::rename(folder.join("a"), folder.join("a/b/c")))])
}

fn rename_over_full(folder: &Path) -> Outcome {
    fs::create_dir_all(folder.join("a"))?;
    fs::create_dir_all(folder.join("b/c"))?;
    let full = ended(fs::rename(folder.join("a"), folder.join("b")));
    fs::remove_dir(folder.join("b/c"))?;
    all([full, ended(fs::rename(folder.join("a"), folder.join("b")))])
}

fn rename_file_over_folder(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "")?;
    fs::create_dir(folder.join("folder"))?;
    all([
        ended(fs::rename(folder.join("file"), folder.join("folder"))),
        ended(fs::rename(folder.join("folder"), folder.join("file"))),
    ])
}

fn rename_same_file(folder: &Path) -> Outcome {
    fs::write(folder.join("a"), "")?;
    fs::hard_link(folder.join("a"), folder.join("b"))?;
    fs::rename(folder.join("a"), folder.join("b"))?;
    all([facts(&folder.join("a"))?])
}

fn rename_open(folder: &Path) -> Outcome {
    use std::io::Write;
    let mut file = File::create(folder.join("a"))?;
    file.write_all(b"before ")?;
    fs::rename(folder.join("a"), folder.join("b"))?;
    file.write_all(b"after")?;
    Ok(fs::read_to_string(folder.join("b"))?)
}

fn unlink_open(folder: &Path) -> Outcome {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(folder.join("file"))?;
    file.write_all_at(b"one", 0)?;
    fs::remove_file(folder.join("file"))?;
    file.write_all_at(b"two", 3)?;
    let mut data = [0; 6];
    file.read_exact_at(&mut data, 0)?;
    let status = file.metadata()?;
    // A new file of that name is another one.
    fs::write(folder.join("file"), "new")?;
    all([
        String::from_utf8_lossy(&data).into_owned(),
        format!("x{} {}", status.nlink(), status.size()),
        fs::read_to_string(folder.join("file"))?,
    ])
}

fn wrong_kind(folder: &Path) -> Outcome {
    fs::create_dir_all(folder.join("folder/inner"))?;
    fs::write(folder.join("file"), "")?;
    all([
        ended(fs::remove_file(folder.join("folder"))),
        ended(fs::remove_dir(folder.join("file"))),
        ended(fs::remove_dir(folder.join("folder"))),
        ended(fs::remove_dir(folder.join("folder/inner/."))),
    ])
}
