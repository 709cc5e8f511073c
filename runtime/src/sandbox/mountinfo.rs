//! Where file systems are mounted on the host (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// The mount points of a mount namespace.
#[derive(Debug, Default)]
pub struct MountPoints(Vec<PathBuf>);

impl MountPoints {
    /// Those of the calling process.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn of_this_process() -> io::Result<Self> {
        let text = fs::read("/proc/self/mountinfo")?;
        Ok(Self(
            text.split(|byte| *byte == b'\n')
                .filter_map(mount_point)
                .collect(),
        ))
    }

    /// Those below a folder, relative to it; a path that is not text is left out.
    pub fn below(&self, folder: &Path) -> impl Iterator<Item = &str> {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        self.0.iter().filter_map(move |point| {
            let below = point.strip_prefix(&folder).ok()?.to_str()?;
            (!below.is_empty()).then_some(below)
        })
    }
}

/// The mount point of a line: its fifth field, in which a byte that would end it stands as an octal number.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let mut parts = field.split(|byte| *byte == b'\\');
    let mut bytes = parts.next()?.to_vec();
    for part in parts {
        let (octal, rest) = part.split_at_checked(3)?;
        bytes.push(u8::from_str_radix(str::from_utf8(octal).ok()?, 8).ok()?);
        bytes.extend_from_slice(rest);
    }
    Some(OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_folder_are_found() {
        let text: &[u8] = br"36 35 0:40 / /srv/data rw shared:1 - ext4 /dev/vda rw
37 36 0:41 / /srv/data/a\040b rw - tmpfs none rw
38 36 0:42 / /srv/database rw - tmpfs none rw";
        let points = text
            .split(|byte| *byte == b'\n')
            .filter_map(mount_point)
            .collect();
        let points = MountPoints(points);
        assert_eq!(points.below(Path::new("/srv/data")).collect::<Vec<_>>(), ["a b"]);
        assert_eq!(mount_point(br"1 2 3 4 /a\0"), None);
        assert_eq!(mount_point(b""), None);
    }
}
