//! What those may do who are not root.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::thread;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{Failure, Named, Outcome, all, ended, facts};

pub const OPERATIONS: &[Named] = &[
    ("a user's new files", new_files),
    ("a user is refused", refused),
    ("a user's access", access),
    ("a user of the folder's group", supplementary_group),
    ("a user in a sticky folder", sticky),
    ("a user may not change another's file", not_the_owner),
    ("a user may change the user's own file", owner),
    ("a user's write clears bits", write_clears_bits),
    ("a new file in a setgid folder", setgid_folder),
    (
        "a user cannot set the group's bit for a foreign group",
        foreign_group_bit,
    ),
    ("an access control list lets a user in", access_list),
];

/// Does `act` as user and group 1000, in the group 3000 too.
fn as_user(act: impl FnOnce() -> Outcome + Send) -> Outcome {
    thread::scope(|scope| {
        let user = scope.spawn(|| {
            let (user, group) = (Uid::from_raw(1000), Gid::from_raw(1000));
            set_thread_groups(&[Gid::from_raw(3000)])?;
            set_thread_res_gid(group, group, group)?;
            set_thread_res_uid(user, user, user)?;
            act()
        });
        user.join().unwrap_or(Err(Failure(libc::EIO)))
    })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn new_files(folder: &Path) -> Outcome {
    set_mode(folder, 0o777)?;
    as_user(|| {
        fs::write(folder.join("file"), "x")?;
        fs::create_dir(folder.join("folder"))?;
        symlink("x", folder.join("link"))?;
        all([
            facts(&folder.join("file"))?,
            facts(&folder.join("folder"))?,
            facts(&folder.join("link"))?,
        ])
    })
}

fn refused(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "x")?;
    set_mode(&folder.join("file"), 0o600)?;
    fs::create_dir(folder.join("closed"))?;
    fs::write(folder.join("closed/file"), "x")?;
    set_mode(&folder.join("closed"), 0o700)?;
    as_user(|| {
        all([
            ended(File::open(folder.join("file"))),
            ended(File::create(folder.join("new"))),
            ended(fs::create_dir(folder.join("new"))),
            ended(fs::remove_file(folder.join("file"))),
            ended(fs::rename(folder.join("file"), folder.join("other"))),
            ended(File::open(folder.join("closed/file"))),
            ended(fs::metadata(folder.join("closed/file"))),
            ended(fs::read_dir(folder.join("closed"))),
            ended(fs::hard_link(folder.join("file"), folder.join("link"))),
        ])
    })
}

fn access(folder: &Path) -> Outcome {
    fs::write(folder.join("file"), "x")?;
    set_mode(&folder.join("file"), 0o754)?;
    let check = || {
        let may = |what| ended(accessat(CWD, folder.join("file"), what, AtFlags::EACCESS));
        all([
            may(Access::EXISTS),
            may(Access::READ_OK),
            may(Access::WRITE_OK),
            may(Access::EXEC_OK),
        ])
    };
    all([check()?, as_user(check)?])
}

fn supplementary_group(folder: &Path) -> Outcome {
    chown(folder, Some(1), Some(3000))?;
    set_mode(folder, 0o770)?;
    as_user(|| {
        fs::write(folder.join("file"), "x")?;
        fs::create_dir(folder.join("folder"))?;
        all([facts(&folder.join("file"))?, facts(&folder.join("folder"))?])
    })
}

fn sticky(folder: &Path) -> Outcome {
    set_mode(folder, 0o1777)?;
    fs::write(folder.join("root's"), "x")?;
    as_user(|| {
        fs::write(folder.join("own"), "x")?;
        all([
            ended(fs::remove_file(folder.join("root's"))),
            ended(fs::rename(folder.join("root's"), folder.join("mine"))),
            ended(fs::rename(folder.join("own"), folder.join("root's"))),
            ended(fs::remove_file(folder.join("own"))),
        ])
    })
}

fn not_the_owner(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "x")?;
    set_mode(&file, 0o666)?;
    as_user(|| {
        let now = File::options().write(true).open(&file)?;
        all([
            ended(set_mode(&file, 0o600)),
            ended(chown(&file, Some(1000), None)),
            ended(now.set_modified(std::time::UNIX_EPOCH)),
            ended(now.set_len(10)),
        ])
    })
}

fn owner(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "x")?;
    chown(&file, Some(1000), Some(1000))?;
    as_user(|| {
        all([
            ended(set_mode(&file, 0o640)),
            ended(chown(&file, Some(1001), None)),
            ended(chown(&file, None, Some(3000))),
            ended(chown(&file, None, Some(4000))),
            facts(&file)?,
        ])
    })
}

fn write_clears_bits(folder: &Path) -> Outcome {
    let mut seen = Vec::new();
    for (mode, truncates) in [(0o6777, false), (0o6777, true), (0o2767, false)] {
        let file = folder.join("file");
        fs::write(&file, "x")?;
        set_mode(&file, mode)?;
        let mode = || Ok::<_, Failure>(format!("{:o}", fs::metadata(&file)?.mode()));
        seen.push(as_user(|| {
            if truncates {
                OpenOptions::new().write(true).truncate(true).open(&file)?;
            } else {
                std::io::Write::write_all(&mut OpenOptions::new().append(true).open(&file)?, b"y")?;
            }
            mode()
        })?);
        set_mode(&file, 0o6777)?;
        // Root's do not.
        std::io::Write::write_all(&mut OpenOptions::new().append(true).open(&file)?, b"z")?;
        seen.push(mode()?);
    }
    all(seen)
}

fn setgid_folder(folder: &Path) -> Outcome {
    chown(folder, Some(1000), Some(3000))?;
    set_mode(folder, 0o2775)?;
    as_user(|| {
        fs::write(folder.join("file"), "")?;
        fs::create_dir(folder.join("folder"))?;
        all([facts(&folder.join("file"))?, facts(&folder.join("folder"))?])
    })
}

fn foreign_group_bit(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    chown(&file, Some(1000), Some(4000))?;
    as_user(|| all([ended(set_mode(&file, 0o2755)), facts(&file)?]))
}

fn access_list(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "x")?;
    // user::rw-, user:1000:r--, group::---, mask::r--, other::---
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 4, 1000),
        (4, 0, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut list = vec![2, 0, 0, 0];
    for (tag, permissions, number) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(number.to_le_bytes());
    }
    rustix::fs::setxattr(
        &file,
        "system.posix_acl_access",
        &list,
        rustix::fs::XattrFlags::empty(),
    )?;
    as_user(|| {
        all([
            ended(File::open(&file)),
            ended(OpenOptions::new().write(true).open(&file)),
        ])
    })
}
