//! Modes, owners, times.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, fchown, lchown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, statvfs, statx, utimensat,
};

use super::{Named, Outcome, all, ended, facts};

pub const OPERATIONS: &[Named] = &[
    ("change modes", modes),
    ("change owners", owners),
    ("changing the owner clears bits", owner_clears_bits),
    ("change the owner of a symbolic link", link_owner),
    ("change the mode of a symbolic link", link_mode),
    ("set times", times),
    ("set the times of a symbolic link", link_times),
    ("writing changes times", writing_changes_times),
    ("times of a folder", folder_times),
    ("extended status", extended_status),
    ("status of the file system", file_system),
    ("the mask applies", mask),
];

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn modes(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    let mut seen = Vec::new();
    for mode in [0, 0o777, 0o7777, 0o1644, 0o4711, 0o2755] {
        set_mode(&file, mode)?;
        seen.push(facts(&file)?);
    }
    set_mode(folder, 0o3775)?;
    seen.push(facts(folder)?);
    all(seen)
}

fn owners(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    chown(&file, Some(12), Some(34))?;
    let both = facts(&file)?;
    fchown(File::open(&file)?, None, Some(56))?;
    let group = facts(&file)?;
    chown(&file, Some(4_000_000_000), None)?;
    all([both, group, facts(&file)?])
}

fn owner_clears_bits(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    set_mode(&file, 0o6755)?;
    chown(&file, Some(0), Some(0))?;
    let executable = facts(&file)?;
    set_mode(&file, 0o2644)?;
    chown(&file, Some(0), Some(0))?;
    all([executable, facts(&file)?])
}

fn link_owner(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "")?;
    symlink("file", folder.join("link"))?;
    lchown(folder.join("link"), Some(12), Some(34))?;
    chown(folder.join("link"), Some(56), Some(78))?;
    all([facts(&folder.join("link"))?, facts(&folder.join("file"))?])
}

fn link_mode(folder: &Path) -> Outcome {
    use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
    symlink("file", folder.join("link"))?;
    let changed = fchmodat(
        nix::fcntl::AT_FDCWD,
        &folder.join("link"),
        Mode::S_IRUSR,
        FchmodatFlags::NoFollowSymlink,
    );
    all([
        ended(changed.map_err(std::io::Error::from)),
        facts(&folder.join("link"))?,
    ])
}

fn stamp(tv_sec: i64, tv_nsec: i64) -> Timespec {
    Timespec { tv_sec, tv_nsec }
}

fn seen_times(path: &Path) -> Outcome {
    let status = fs::symlink_metadata(path)?;
    Ok(format!(
        "{}.{} {}.{}",
        status.atime(),
        status.atime_nsec(),
        status.mtime(),
        status.mtime_nsec()
    ))
}

fn times(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    let set = |access, modification| {
        let times = Timestamps {
            last_access: access,
            last_modification: modification,
        };
        utimensat(CWD, &file, &times, AtFlags::empty())
    };
    set(stamp(1000, 1), stamp(2000, 999_999_999))?;
    let first = seen_times(&file)?;
    set(stamp(0, UTIME_OMIT), stamp(-5, 0))?;
    let second = seen_times(&file)?;
    let bad = ended(set(stamp(0, 1_000_000_000), stamp(0, 0)));
    set(stamp(3000, 0), stamp(0, UTIME_NOW))?;
    let status = fs::metadata(&file)?;
    let now = status.mtime() > 1_700_000_000 && status.ctime() > 1_700_000_000;
    all([first, second, bad, now.to_string(), status.atime().to_string()])
}

fn link_times(folder: &Path) -> Outcome {
    symlink("nowhere", folder.join("link"))?;
    let times = Timestamps {
        last_access: stamp(1, 2),
        last_modification: stamp(3, 4),
    };
    utimensat(CWD, folder.join("link"), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    seen_times(&folder.join("link"))
}

fn set_old(path: &Path) -> Result<(), super::Failure> {
    let times = Timestamps {
        last_access: stamp(1000, 0),
        last_modification: stamp(1000, 0),
    };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

fn writing_changes_times(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "x")?;
    let mut changed = Vec::new();
    let actions: [fn(&Path) -> std::io::Result<()>; 4] = [
        |path| fs::write(path, "y"),
        |path| File::options().write(true).open(path)?.set_len(100),
        |path| set_mode(path, 0o600),
        |path| {
            fs::rename(path, path.with_extension("x"))
                .and_then(|()| fs::rename(path.with_extension("x"), path))
        },
    ];
    for act in actions {
        set_old(&file)?;
        act(&file)?;
        changed.push((fs::metadata(&file)?.mtime() != 1000).to_string());
    }
    all(changed)
}

fn folder_times(folder: &Path) -> Outcome {
    let mut changed = Vec::new();
    let actions: [fn(&Path) -> std::io::Result<()>; 4] = [
        |folder| fs::write(folder.join("file"), ""),
        |folder| fs::write(folder.join("file"), "more"),
        |folder| fs::rename(folder.join("file"), folder.join("other")),
        |folder| fs::remove_file(folder.join("other")),
    ];
    for act in actions {
        set_old(folder)?;
        act(folder)?;
        changed.push((fs::metadata(folder)?.mtime() != 1000).to_string());
    }
    all(changed)
}

fn extended_status(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "12345")?;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let status = statx(CWD, &file, AtFlags::empty(), wanted)?;
    let has_birth = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::BTIME);
    Ok(format!(
        "{} {:o} {} {has_birth}",
        status.stx_size, status.stx_mode, status.stx_nlink
    ))
}

fn file_system(folder: &Path) -> Outcome {
    let status = statvfs(folder)?;
    Ok(format!(
        "{} {} {}",
        status.f_namemax,
        status.f_bsize,
        status.f_blocks > 0
    ))
}

fn mask(folder: &Path) -> Outcome {
    use rustix::fs::Mode;
    let before = rustix::process::umask(Mode::from_raw_mode(0o077));
    let made = fs::write(folder.join("file"), "").and_then(|()| fs::create_dir(folder.join("folder")));
    rustix::process::umask(before);
    made?;
    all([facts(&folder.join("file"))?, facts(&folder.join("folder"))?])
}
