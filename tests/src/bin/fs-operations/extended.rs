//! Extended attributes and access control lists.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr};

use super::{Failure, Named, Outcome, all, ended, facts};

pub const OPERATIONS: &[Named] = &[
    ("extended attributes", user_attributes),
    ("extended attributes, create and replace", create_and_replace),
    ("extended attributes of folders and links", of_other_kinds),
    ("extended attributes that are too long", too_long),
    ("file capabilities", capabilities),
    ("an access control list changes the mode", access_list),
    ("a default access control list is inherited", default_list),
];

fn get(path: &Path, name: &str) -> Outcome {
    let mut value = [0; 256];
    let length = getxattr(path, name, &mut value[..])?;
    Ok(String::from_utf8_lossy(&value[..length]).into_owned())
}

fn shown(result: Outcome) -> String {
    result.unwrap_or_else(|failure| failure.to_string())
}

/// The names of the `user` attributes: others depend on what else the system does.
fn names(path: &Path) -> Result<BTreeSet<String>, Failure> {
    let mut list = vec![0; 4096];
    let length = listxattr(path, &mut list[..])?;
    let names = list[..length]
        .split(|&byte| byte == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned());
    Ok(names.filter(|name| name.starts_with("user.")).collect())
}

fn user_attributes(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    let missing = shown(get(&file, "user.one"));
    setxattr(&file, "user.one", b"1", XattrFlags::empty())?;
    setxattr(&file, "user.two", b"", XattrFlags::empty())?;
    let listed = format!("{:?}", names(&file)?);
    let short = ended(getxattr(&file, "user.one", &mut [0u8; 0][..]));
    removexattr(&file, "user.one")?;
    all([
        missing,
        listed,
        short,
        format!("{:?}", shown(get(&file, "user.two"))),
        ended(removexattr(&file, "user.one")),
        ended(setxattr(&file, "nonsense.name", b"1", XattrFlags::empty())),
        ended(setxattr(&file, "user.", b"1", XattrFlags::empty())),
    ])
}

fn create_and_replace(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    all([
        ended(setxattr(&file, "user.x", b"1", XattrFlags::REPLACE)),
        ended(setxattr(&file, "user.x", b"1", XattrFlags::CREATE)),
        ended(setxattr(&file, "user.x", b"2", XattrFlags::CREATE)),
        ended(setxattr(&file, "user.x", b"3", XattrFlags::REPLACE)),
        shown(get(&file, "user.x")),
    ])
}

fn of_other_kinds(folder: &Path) -> Outcome {
    symlink("nowhere", folder.join("link"))?;
    setxattr(folder, "user.x", b"folder", XattrFlags::empty())?;
    let on_link = lsetxattr(folder.join("link"), "user.x", b"link", XattrFlags::empty());
    let from_link = lgetxattr(folder.join("link"), "user.x", &mut [0u8; 10][..]);
    all([shown(get(folder, "user.x")), ended(on_link), ended(from_link)])
}

fn too_long(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    all([
        ended(setxattr(
            &file,
            format!("user.{}", "x".repeat(300)),
            b"",
            XattrFlags::empty(),
        )),
        ended(setxattr(
            &file,
            "user.x",
            &vec![0; (64 << 10) + 1],
            XattrFlags::empty(),
        )),
    ])
}

/// The capability to bind low ports, as `setcap` writes it.
const NET_BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn capabilities(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    let name = "security.capability";
    setxattr(&file, name, &NET_BIND, XattrFlags::empty())?;
    let mut value = [0; 64];
    let length = getxattr(&file, name, &mut value[..])?;
    let same = value[..length] == NET_BIND;
    // Whoever writes to a program must not give it capabilities.
    fs::write(&file, "changed")?;
    all([same.to_string(), ended(getxattr(&file, name, &mut value[..]))])
}

/// An access control list in the kernel's form: tag, permissions and number of each entry.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, number) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(number.to_le_bytes());
    }
    bytes
}

const USER_OBJECT: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJECT: u16 = 4;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NOBODY: u32 = u32::MAX;

fn access_list(folder: &Path) -> Outcome {
    let file = folder.join("file");
    fs::write(&file, "")?;
    let entries = [
        (USER_OBJECT, 7, NOBODY),
        (USER, 4, 1000),
        (GROUP_OBJECT, 5, NOBODY),
        (MASK, 6, NOBODY),
        (OTHER, 0, NOBODY),
    ];
    setxattr(
        &file,
        "system.posix_acl_access",
        &list(&entries),
        XattrFlags::empty(),
    )?;
    let mode = facts(&file)?;
    let nonsense = ended(setxattr(
        &file,
        "system.posix_acl_access",
        &[1, 2, 3],
        XattrFlags::empty(),
    ));
    removexattr(&file, "system.posix_acl_access")?;
    all([mode, nonsense, facts(&file)?])
}

fn default_list(folder: &Path) -> Outcome {
    let entries = [
        (USER_OBJECT, 7, NOBODY),
        (GROUP_OBJECT, 7, NOBODY),
        (OTHER, 1, NOBODY),
    ];
    setxattr(
        folder,
        "system.posix_acl_default",
        &list(&entries),
        XattrFlags::empty(),
    )?;
    fs::write(folder.join("file"), "")?;
    fs::create_dir(folder.join("folder"))?;
    let inherited = getxattr(
        folder.join("folder"),
        "system.posix_acl_default",
        &mut [0u8; 256][..],
    )?;
    all([
        facts(&folder.join("file"))?,
        facts(&folder.join("folder"))?,
        inherited.to_string(),
    ])
}
