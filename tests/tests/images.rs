//! A guest's root from a disk image, of every format that the runtime specification names.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_tests::harness::{Host, make_root_image};
use serde_json::json;

/// A host that allows the test's own folder and whose configured initramfs is not there: what starts, starts from an
/// image.
fn host() -> Host {
    let mut host = Host::new();
    let folder = host.folder().to_str().unwrap().to_owned();
    host.settings.insert("vm_paths".into(), vec![folder].into());
    host.settings.insert("initramfs".into(), "/nonexistent".into());
    host
}

fn qemu_img(folder: &Path, arguments: &str) {
    let mut command = Command::new("qemu-img");
    command.current_dir(folder).args(arguments.split_whitespace());
    let output = command.output().expect("Debian's qemu-utils is installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A raw image of the guest's root, and its folder.
fn raw_image(host: &Host, file_system: &str) -> (PathBuf, PathBuf) {
    let folder = host.directory("images");
    let image = folder.join("root.raw");
    make_root_image(file_system, &image);
    (image, folder)
}

/// Runs a container in a guest whose root is the image.
#[track_caller]
fn assert_boots(host: &Host, image: &Path, format: &str) {
    let bundle = host.bundle(|config| {
        let script = "cat /sys/block/vda/ro /sys/block/vda/serial; echo; grep -o root=/dev/vda /proc/cmdline";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["vm"] = json!({"image": {"path": image, "format": format}});
    });
    let output = host.run(&bundle).output();
    assert_eq!(output.success(), "1\nroot\nroot=/dev/vda\n", "{format}");
}

#[track_caller]
fn assert_refused(host: &Host, image: &Path, format: &str, words: &[&str]) {
    let bundle = host.bundle(|config| config["vm"] = json!({"image": {"path": image, "format": format}}));
    let line = host.run(&bundle).output().refusal();
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

#[test]
fn raw_and_qcow2() {
    let host = host();
    let (raw, folder) = raw_image(&host, "erofs");
    // No format means raw.
    assert_boots(&host, &raw, "");

    // Compressed, and an overlay over it that has nothing of its own.
    qemu_img(&folder, "convert -O qcow2 -c root.raw compressed.qcow2");
    qemu_img(
        &folder,
        "create -f qcow2 -b compressed.qcow2 -F qcow2 overlay.qcow2",
    );
    fs::remove_file(&raw).unwrap();
    assert_boots(&host, &folder.join("overlay.qcow2"), "qcow2");
}

#[test]
fn vhd_and_vdi() {
    let host = host();
    let (_, folder) = raw_image(&host, "ext4");
    qemu_img(&folder, "convert -O vpc root.raw root.vhd");
    assert_boots(&host, &folder.join("root.vhd"), "vhd");
    qemu_img(&folder, "convert -O vdi root.raw root.vdi");
    assert_boots(&host, &folder.join("root.vdi"), "vdi");
}

#[test]
fn vmdk_in_one_file_and_with_extents() {
    let host = host();
    let (_, folder) = raw_image(&host, "erofs");
    qemu_img(&folder, "convert -O vmdk root.raw sparse.vmdk");
    assert_boots(&host, &folder.join("sparse.vmdk"), "vmdk");
    qemu_img(
        &folder,
        "convert -O vmdk -o subformat=monolithicFlat root.raw flat.vmdk",
    );
    assert_boots(&host, &folder.join("flat.vmdk"), "vmdk");
}

#[test]
fn an_initrd_is_given_beside_an_image() {
    let host = host();
    let (image, _) = raw_image(&host, "erofs");
    let initrd = host.folder().join("initrd");
    fs::copy(bulkhead_tests::harness::initramfs(), &initrd).unwrap();
    let bundle = host.bundle(|config| {
        // The agent of the initrd is what runs; the image is there for it.
        config["process"]["args"] = json!([
            "sh",
            "-c",
            "cat /sys/block/vda/serial; echo; grep -c vda /proc/self/mountinfo"
        ]);
        config["vm"] = json!({"kernel": {"initrd": initrd}, "image": {"path": image}});
    });
    let output = host.run(&bundle).output().with_code(1);
    assert_eq!(output.stdout(), "root\n0\n");
}

#[test]
fn images_that_are_not_what_they_should_be() {
    let host = host();
    let (raw, folder) = raw_image(&host, "erofs");
    let at = |name: &str| folder.join(name);
    for (format, words) in [
        ("qcow2", "not a qcow2 image"),
        ("vhd", "mark"),
        ("vdi", "mark"),
        ("vmdk", "not a vmdk image"),
    ] {
        assert_refused(&host, &raw, format, &[format, words]);
    }
    qemu_img(
        &folder,
        "convert -O vmdk -o subformat=streamOptimized root.raw stream.vmdk",
    );
    assert_refused(
        &host,
        &at("stream.vmdk"),
        "vmdk",
        &["stream-optimised", "qemu-img convert"],
    );
    qemu_img(
        &folder,
        "convert -O qcow2 -o data_file=data.raw root.raw data.qcow2",
    );
    assert_refused(
        &host,
        &at("data.qcow2"),
        "qcow2",
        &["vm.image.path", "another file"],
    );
    File::create(at("empty")).unwrap();
    assert_refused(&host, &at("empty"), "raw", &["smaller than one sector"]);
}

#[test]
fn files_outside_the_images_folder() {
    let host = host();
    let (_, folder) = raw_image(&host, "erofs");
    let at = |name: &str| folder.join(name);
    // Also what vm_paths allows is outside, if it is not in the image's own folder.
    let outside = host.file("outside.raw", vec![0; 1 << 20]);
    let outside = outside.to_str().unwrap();
    symlink("../outside.raw", at("link.raw")).unwrap();
    for (name, backing) in [
        ("absolute", outside),
        ("dots", "../outside.raw"),
        ("link", "link.raw"),
    ] {
        qemu_img(
            &folder,
            &format!("create -f qcow2 -b {backing} -F raw {name}.qcow2"),
        );
        let words = ["vm.image.path", backing, "outside", "image's folder"];
        assert_refused(&host, &at(&format!("{name}.qcow2")), "qcow2", &words);
    }
    // A base whose format is not said: its first bytes would say it, and whoever writes to it writes those.
    qemu_img(&folder, "create -f qcow2 -b root.raw -F raw unsaid.qcow2");
    let mut image = fs::read(at("unsaid.qcow2")).unwrap();
    let format = [0xe2, 0x79, 0x2a, 0xca];
    let place = image.windows(4).position(|window| window == format).unwrap();
    image[place] = 0;
    fs::write(at("unsaid.qcow2"), image).unwrap();
    assert_refused(
        &host,
        &at("unsaid.qcow2"),
        "qcow2",
        &["root.raw", "of which format"],
    );
    // A description that names the host's files.
    let description = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/shadow\" 0\n";
    fs::write(at("hostile.vmdk"), description).unwrap();
    assert_refused(
        &host,
        &at("hostile.vmdk"),
        "vmdk",
        &["/etc/shadow", "image's folder"],
    );
}
