//! L1's kernel: Debian's 6.12 for clouds, downloaded as a package and unpacked into the cache, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, cache, tool};

/// What L1 loads, dependencies apart: KVM, the overlay, and what container networks use.
const MODULES: &[&str] = &[
    "virtio_net",
    "kvm-amd",
    "overlay",
    "tun",
    "tap",
    "veth",
    "bridge",
    "vhost_vsock",
    "vhost_net",
    "loop",
    "sch_ingress",
    "cls_u32",
    "cls_matchall",
    "act_mirred",
    "cls_bpf",
    "act_bpf",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "nft_compat",
    "nft_fib_inet",
    "xt_comment",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
    "xt_multiport",
    "br_netfilter",
    "macvlan",
    "ipvlan",
    "macvtap",
    "ip_tables",
    "iptable_nat",
    "iptable_filter",
    "erofs",
    "squashfs",
];

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    folder: PathBuf,
}

impl Kernel {
    /// The newest kernel in the cache, or else the newest in apt's lists, downloaded. Call with the cache locked.
    ///
    /// # Errors
    /// No package, no network, or not the expected content.
    pub fn get() -> Result<Self, Error> {
        let kernels = cache::folder()?.join("kernel");
        fs::create_dir_all(&kernels).map_err(Error::file(&kernels))?;
        let cached = fs::read_dir(&kernels)
            .map_err(Error::file(&kernels))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|release| kernels.join(release).join("vmlinux").exists())
            .max_by_key(|release| version(release));
        if let Some(release) = cached {
            let folder = kernels.join(&release);
            return Ok(Self { release, folder });
        }
        Self::download(&kernels)
    }

    /// The uncompressed kernel, an ELF with a PVH entry: booting it spares TCG the decompression.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The folder of this kernel's modules, as depmod left it.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// The files of L1's modules in the order in which they must be loaded.
    ///
    /// # Errors
    /// modprobe is missing or fails.
    pub fn module_files(&self) -> Result<Vec<PathBuf>, Error> {
        let mut files: Vec<PathBuf> = Vec::new();
        for module in MODULES {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("--dirname").arg(&self.folder);
            modprobe.args(["--set-version", &self.release, "--show-depends", module]);
            let lines = tool::output(&mut modprobe)?;
            for line in String::from_utf8_lossy(&lines).lines() {
                // Parameters may follow the file.
                let Some((stem, rest)) = line
                    .strip_prefix("insmod ")
                    .and_then(|file| file.rsplit_once(".ko"))
                else {
                    continue;
                };
                let suffix = rest.split(' ').next().unwrap_or_default();
                let file = PathBuf::from(format!("{stem}.ko{suffix}"));
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    fn download(kernels: &Path) -> Result<Self, Error> {
        let names = tool::output(Command::new("apt-cache").args(["pkgnames", "linux-image-6.12."]))?;
        let names = String::from_utf8_lossy(&names).into_owned();
        let release = names
            .lines()
            .filter_map(|name| name.strip_prefix("linux-image-"))
            .filter(|release| release.ends_with("-cloud-amd64"))
            .max_by_key(|release| version(release))
            .ok_or(Error::NoKernelPackage)?;
        eprintln!("testbed: downloading and unpacking L1's kernel {release} (35 MB, once)");
        let scratch = tempfile::tempdir_in(kernels).map_err(Error::file(kernels))?;
        let folder = scratch.path();
        let package = format!("linux-image-{release}");
        tool::output(
            Command::new("apt-get")
                .args(["-q", "download", &package])
                .current_dir(folder),
        )?;
        let files = fs::read_dir(folder).map_err(Error::file(folder))?;
        let package = files
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or(Error::NoKernelPackage)?;
        tool::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder))?;
        fs::remove_file(&package).map_err(Error::file(&package))?;
        // Merged-/usr packages keep modules in usr/lib.
        if !folder.join("lib").exists() {
            fs::rename(folder.join("usr/lib"), folder.join("lib")).map_err(Error::file(folder))?;
        }
        tool::output(Command::new("depmod").arg("-b").arg(folder).arg(release))?;
        extract_payload(
            &folder.join(format!("boot/vmlinuz-{release}")),
            &folder.join("vmlinux"),
        )?;
        let kept = kernels.join(release);
        fs::rename(scratch.keep(), &kept).map_err(Error::file(&kept))?;
        Ok(Self {
            release: release.to_owned(),
            folder: kept,
        })
    }
}

/// Numbers of a release such as 6.12.117+deb12-cloud-amd64, for ordering.
fn version(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Writes the ELF inside a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length).
fn extract_payload(bzimage: &Path, vmlinux: &Path) -> Result<(), Error> {
    let image = fs::read(bzimage).map_err(Error::file(bzimage))?;
    let payload = payload(&image).ok_or(Error::KernelImage {
        path: bzimage.into(),
        what: "not a bzImage",
    })?;
    let compressed = vmlinux.with_extension("zst");
    fs::write(&compressed, payload).map_err(Error::file(&compressed))?;
    tool::output(
        Command::new("zstd")
            .args(["-q", "-d", "-f", "--rm"])
            .arg(&compressed)
            .arg("-o")
            .arg(vmlinux),
    )?;
    Ok(())
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let field = |offset: usize| {
        let bytes = image.get(offset..offset.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return None;
    }
    let setup_bytes = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = setup_bytes.checked_add(field(0x248)?)?;
    // The last four bytes are the uncompressed size, not part of the frame.
    let end = start.checked_add(field(0x24c)?.checked_sub(4)?)?;
    image.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_wins() {
        let mut releases = [
            "6.12.9+deb12-cloud-amd64",
            "6.12.117+deb12-cloud-amd64",
            "6.12.63+deb13-cloud-amd64",
        ];
        releases.sort_by_key(|release| version(release));
        assert_eq!(releases.last(), Some(&"6.12.117+deb12-cloud-amd64"));
    }

    #[test]
    fn the_payload_is_found_and_bounded() {
        let mut image = vec![0; 0x400 + 20];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&8u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12u32.to_le_bytes());
        image[0x408..0x410].copy_from_slice(b"payload!");
        assert_eq!(payload(&image), Some(b"payload!".as_slice()));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"ELF"), None);
    }
}
