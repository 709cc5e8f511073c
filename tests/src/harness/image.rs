//! Images for container engines, without a registry. Each has the small busybox system for its only layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::rootfs;

/// An image, by name and with what is particular to it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its full name, as `localhost/NAME:TAG`.
    pub name: String,
    /// The `config` object of its configuration, OCI's image specification.
    pub config: Value,
}

impl Image {
    /// An image whose containers run `args`, if they name no program of their own.
    #[must_use]
    pub fn new(name: &str, args: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            config: json!({"Cmd": args, "Env": ["PATH=/bin"]}),
        }
    }
}

/// Packs the small busybox system into a tar archive below `folder`, as `podman import` and `docker import` take it.
///
/// # Panics
/// It cannot be written.
pub fn archive(folder: &Path) -> PathBuf {
    let root = folder.join("image");
    rootfs::make(&root);
    pack(&folder.join("image.tar"), &root)
}

/// Packs the images into one archive below `folder` of the form that `docker save` writes and `ctr image import` takes.
///
/// # Panics
/// It cannot be written.
pub fn images_archive(folder: &Path, images: &[Image]) -> PathBuf {
    const LAYER: &str = "layer.tar";
    let content = folder.join("images");
    fs::create_dir(&content).expect("the folder of the images");
    let layer = content.join(LAYER);
    fs::rename(archive(folder), &layer).expect("two files in one folder");
    let digest = hex(&Sha256::digest(fs::read(layer).expect("the layer was written")));
    let manifest: Vec<Value> = images
        .iter()
        .enumerate()
        .map(|(index, image)| {
            let name = format!("config-{index}.json");
            let config = json!({
                "architecture": "amd64",
                "os": "linux",
                "config": image.config,
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            });
            fs::write(content.join(&name), config.to_string()).expect("an image's configuration");
            json!({"Config": name, "RepoTags": [image.name], "Layers": [LAYER]})
        })
        .collect();
    fs::write(content.join("manifest.json"), Value::from(manifest).to_string()).expect("the manifest");
    pack(&folder.join("images.tar"), &content)
}

fn pack(archive: &Path, folder: &Path) -> PathBuf {
    let status = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .status();
    assert!(status.expect("tar is installed").success());
    archive.to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
