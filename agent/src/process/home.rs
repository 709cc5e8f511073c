//! Where a user's home is, by the container's `/etc/passwd`: programs expect `HOME` even of a runtime that was not
//! told it.

use std::io::Read;

use rustix::fs::{FileType, Mode, OFlags, fstat};

/// A larger file is not read further.
const MAX_SIZE: u64 = 1 << 20;

/// The home of a user, in the root file system of the calling process; `/` when it is not known.
pub fn of_user(uid: u32) -> String {
    read_passwd()
        .and_then(|passwd| find(&passwd, uid).map(ToOwned::to_owned))
        .unwrap_or_else(|| "/".to_owned())
}

fn read_passwd() -> Option<String> {
    // The image may have anything by that name, such as a pipe that nobody writes to.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
    if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (number, home) = (fields.next()?, fields.nth(2)?);
        (number.parse() == Ok(uid) && home.starts_with('/') && !home.contains('\0')).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_found_by_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken:7\napp:x:1000:1000::/home/app:\nodd:x:5:5::relative:\n";
        assert_eq!(find(passwd, 0), Some("/root"));
        assert_eq!(find(passwd, 1000), Some("/home/app"));
        assert_eq!(find(passwd, 5), None);
        assert_eq!(find(passwd, 7), None);
    }
}
