//! Device nodes and the links under `/dev`.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::{
    fs::{
        AtFlags, Dev, FileType, Gid, Mode, OFlags, Uid, chownat, major, makedev, minor, mknodat, openat,
        statat, symlinkat, unlinkat,
    },
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    mounts::attach,
    paths::{self, Kind},
    spec::{SpecError, check_id},
};
use crate::{
    disks,
    failure::{Failure, Step},
};

/// The devices that every container has, as the runtime specification lists them.
const DEFAULT: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The links that every container has under `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// One device node to be made.
#[derive(Debug, PartialEq, Eq)]
pub struct PlannedDevice {
    path: PathBuf,
    kind: FileType,
    number: Dev,
    mode: Mode,
    owner: (u32, u32),
    /// Whether an existing file of another kind may stay.
    lenient: bool,
}

impl PlannedDevice {
    /// The default devices, then those of linux.devices.
    ///
    /// # Errors
    /// The first entry whose type or number is none.
    pub fn parse_all(devices: &[LinuxDevice]) -> Result<Vec<Self>, SpecError> {
        let default = DEFAULT.iter().map(|&(name, major, minor)| {
            Ok(Self {
                path: Path::new("/dev").join(name),
                kind: FileType::CharacterDevice,
                number: makedev(major, minor),
                mode: Mode::from_raw_mode(0o666),
                owner: (0, 0),
                lenient: true,
            })
        });
        default
            .chain(
                devices
                    .iter()
                    .enumerate()
                    .map(|(index, device)| Self::parse(index, device)),
            )
            .collect()
    }

    fn parse(index: usize, device: &LinuxDevice) -> Result<Self, SpecError> {
        let field = |name: &str| format!("linux.devices[{index}].{name}");
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(SpecError::invalid(
                    field("type"),
                    "\"a\" is for cgroup rules only",
                ));
            }
        };
        let number = |value: i64, name: &str| {
            u32::try_from(value)
                .map_err(|_| SpecError::invalid(field(name), format!("{value} is no device number")))
        };
        let number = if kind == FileType::Fifo {
            0
        } else {
            makedev(number(device.major(), "major")?, number(device.minor(), "minor")?)
        };
        if !device.path().is_absolute() {
            return Err(SpecError::invalid(
                field("path"),
                format!("\"{}\" is not absolute", device.path().display()),
            ));
        }
        let owner = (device.uid().unwrap_or_default(), device.gid().unwrap_or_default());
        check_id(&field("uid"), owner.0)?;
        check_id(&field("gid"), owner.1)?;
        Ok(Self {
            path: device.path().clone(),
            kind,
            number,
            mode: Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777),
            owner,
            lenient: false,
        })
    }

    /// Makes the node, or, where users of the container may not, shows the guest's own.
    fn create(&self, root: BorrowedFd<'_>, user_namespace: bool) -> Result<(), Failure> {
        let named = || format!("create device {}", self.path.display());
        if user_namespace {
            let own = if self.kind == FileType::BlockDevice {
                disks::node(self.number)
            } else {
                self.path.clone()
            };
            let device = open_tree(
                rustix::fs::CWD,
                &own,
                OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
            )
            .step(named)?;
            let target = paths::open_or_create(root, &self.path, Kind::File).step(named)?;
            return attach(&device, &target).step(named);
        }
        let (parent, name) = paths::open_parent(root, &self.path).step(named)?;
        match mknodat(&parent, &name, self.kind, self.mode, self.number) {
            Ok(()) => {}
            Err(Errno::EXIST) if self.lenient => return Ok(()),
            Err(Errno::EXIST) => {
                let stat = statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).step(named)?;
                let number = if self.kind == FileType::Fifo {
                    0
                } else {
                    stat.st_rdev
                };
                if FileType::from_raw_mode(stat.st_mode) != self.kind || number != self.number {
                    return Err(Failure::new(format!(
                        "{}: another file is there already",
                        named()
                    )));
                }
            }
            Err(errno) => return Err(Failure::step(named(), errno)),
        }
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        chownat(&parent, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).step(named)
    }
}

/// Fills the container's `/dev`. The caller has set the file mode creation mask to zero.
///
/// # Errors
/// Names the device or link.
pub fn create_all(
    root: BorrowedFd<'_>,
    devices: &[PlannedDevice],
    user_namespace: bool,
) -> Result<(), Failure> {
    for device in devices {
        device.create(root, user_namespace)?;
    }
    let dev = paths::open_or_create(root, Path::new("/dev"), Kind::Folder).step(|| "open /dev")?;
    for (name, target) in LINKS {
        match symlinkat(*target, &dev, *name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure::step(format!("create link /dev/{name}"), errno)),
        }
    }
    match unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => symlinkat("pts/ptmx", &dev, "ptmx").step(|| "create link /dev/ptmx"),
        Err(errno) => Err(Failure::step("replace /dev/ptmx", errno)),
    }
}

/// Opens a character device inside a container, and makes sure that it is that device and nothing made to look like
/// it.
///
/// # Errors
/// What openat2(2) gives; `ENODEV` when it is something else.
pub fn open_verified(root: BorrowedFd<'_>, path: &Path, number: (u32, u32)) -> Result<OwnedFd, Errno> {
    let place = paths::open(root, path, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || (major(stat.st_rdev), minor(stat.st_rdev)) != number
    {
        return Err(Errno::NODEV);
    }
    let opened = paths::open(root, path, OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK)?;
    let reopened = rustix::fs::fstat(&opened)?;
    if reopened.st_rdev != stat.st_rdev {
        return Err(Errno::NODEV);
    }
    rustix::fs::fcntl_setfl(&opened, OFlags::RDWR)?;
    Ok(opened)
}

/// The guest's own `/dev/null`.
///
/// # Errors
/// What openat(2) gives.
pub fn null() -> Result<OwnedFd, Errno> {
    openat(
        rustix::fs::CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use serde_json::json;

    use super::*;

    fn parse(device: serde_json::Value) -> Result<PlannedDevice, String> {
        let device: LinuxDevice = serde_json::from_value(device).unwrap();
        PlannedDevice::parse(0, &device).map_err(|error| error.to_string())
    }

    #[test]
    fn the_mode_is_decimal_in_json_and_has_a_default() {
        let fuse =
            parse(json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432}))
                .unwrap();
        assert_eq!(fuse.mode, Mode::from_raw_mode(0o660));
        assert_eq!(fuse.number, makedev(10, 229));
        let fifo = parse(json!({"path": "/run/fifo", "type": "p"})).unwrap();
        assert_eq!(
            (fifo.kind, fifo.number, fifo.mode),
            (FileType::Fifo, 0, Mode::from_raw_mode(0o666))
        );
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for (device, text) in [
            (
                json!({"path": "/dev/x", "type": "a"}),
                "linux.devices[0].type: \"a\" is for cgroup rules only",
            ),
            (
                json!({"path": "/dev/x", "type": "b", "major": -1, "minor": 0}),
                "linux.devices[0].major: -1 is no device number",
            ),
            (
                json!({"path": "x", "type": "c"}),
                "linux.devices[0].path: \"x\" is not absolute",
            ),
        ] {
            assert_eq!(parse(device).unwrap_err(), text);
        }
    }

    #[test]
    fn a_device_is_told_from_what_looks_like_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("null"), "").unwrap();
        let root = std::fs::File::open(root.path()).unwrap();
        assert_eq!(
            open_verified(root.as_fd(), Path::new("/null"), (1, 3)).unwrap_err(),
            Errno::NODEV
        );
        let host = std::fs::File::open("/").unwrap();
        open_verified(host.as_fd(), Path::new("/dev/null"), (1, 3)).unwrap();
    }
}
