//! An image for container engines, without a registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::rootfs;

/// Packs the small busybox system into a tar archive below `folder`, as `podman import` and `docker import` take it.
///
/// # Panics
/// It cannot be written.
pub fn archive(folder: &Path) -> PathBuf {
    let root = folder.join("image");
    let archive = folder.join("image.tar");
    rootfs::make(&root);
    let status = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&root)
        .arg(".")
        .status();
    assert!(status.expect("tar is installed").success());
    archive
}
