use std::{
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, symlink},
    },
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};
use tempfile::TempDir;

use super::{Kind, open, open_or_create, open_parent};

struct Root {
    folder: TempDir,
    fd: File,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        let fd = File::open(folder.path().join("root")).unwrap();
        Self { folder, fd }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn create(&self, path: &str, kind: Kind) -> Result<u64, Errno> {
        let fd = open_or_create(self.fd.as_fd(), Path::new(path), kind)?;
        Ok(rustix::fs::fstat(&fd)?.st_ino)
    }
}

#[test]
fn missing_folders_and_files_are_made() {
    let root = Root::new();
    let inode = root.create("/a/b/c", Kind::Folder).unwrap();
    assert_eq!(fs::metadata(root.path("a/b/c")).unwrap().ino(), inode);
    root.create("x/y", Kind::File).unwrap();
    assert!(fs::metadata(root.path("x/y")).unwrap().is_file());
}

#[test]
fn links_do_not_lead_out() {
    let root = Root::new();
    fs::write(root.folder.path().join("secret"), "").unwrap();
    symlink("../../..", root.path("up")).unwrap();
    symlink(root.folder.path(), root.path("absolute")).unwrap();
    for path in ["up/secret", "absolute/secret", "/../secret"] {
        let error = open(root.fd.as_fd(), Path::new(path), OFlags::PATH).unwrap_err();
        assert_eq!(error, Errno::NOENT, "{path}");
    }
    root.create("up/etc/made", Kind::File).unwrap();
    assert!(root.path("etc/made").exists());
}

#[test]
fn a_link_to_nothing_is_followed_inside() {
    let root = Root::new();
    fs::create_dir(root.path("etc")).unwrap();
    symlink("../run/resolve/stub.conf", root.path("etc/resolv.conf")).unwrap();
    symlink("/var/absolute", root.path("etc/other")).unwrap();
    root.create("/etc/resolv.conf", Kind::File).unwrap();
    root.create("/etc/other", Kind::Folder).unwrap();
    assert!(root.path("run/resolve/stub.conf").is_file());
    assert!(root.path("var/absolute").is_dir());
}

#[test]
fn links_that_turn_in_circles_end() {
    let root = Root::new();
    symlink("b", root.path("a")).unwrap();
    symlink("a", root.path("b")).unwrap();
    assert_eq!(root.create("a", Kind::File).unwrap_err(), Errno::LOOP);
    symlink("grow/grow", root.path("grow")).unwrap();
    assert_eq!(root.create("grow", Kind::Folder).unwrap_err(), Errno::LOOP);
}

#[test]
fn a_file_in_the_way_is_an_error() {
    let root = Root::new();
    fs::write(root.path("file"), "").unwrap();
    assert_eq!(
        root.create("file/below", Kind::Folder).unwrap_err(),
        Errno::NOTDIR
    );
}

#[test]
fn the_parent_is_made_and_the_name_given() {
    let root = Root::new();
    let (_, name) = open_parent(root.fd.as_fd(), Path::new("/dev/net/tun")).unwrap();
    assert_eq!(name, Path::new("tun"));
    assert!(root.path("dev/net").is_dir());
    assert_eq!(
        open_parent(root.fd.as_fd(), Path::new("/dev/..")).unwrap_err(),
        Errno::INVAL
    );
}
