//! The root file system and the mounts.

use std::fs;

use bulkhead_tests::harness::Host;
use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};

fn add_mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

#[test]
fn a_read_only_root_refuses_writes() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["root"]["readonly"] = json!(true);
        let script = "touch /new; rm /etc/old; echo more >> /etc/old; touch /tmp/scratch && echo scratch";
        config["process"]["args"] = json!(["sh", "-c", script]);
        add_mount(
            config,
            json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}),
        );
    });
    fs::write(bundle.rootfs().join("etc/old"), "old").unwrap();
    let output = host.run(&bundle).output();
    assert_eq!(output.stdout(), "scratch\n", "{output:?}");
    assert_eq!(
        output.stderr().matches("Read-only file system").count(),
        3,
        "{output:?}"
    );
    assert_eq!(
        fs::read_to_string(bundle.rootfs().join("etc/old")).unwrap(),
        "old"
    );
    assert!(!bundle.rootfs().join("new").exists());
    assert!(!bundle.rootfs().join("tmp/scratch").exists());
}

#[test]
fn a_writable_root_keeps_what_is_written() {
    let host = Host::new();
    let bundle = host
        .script("echo data > /kept; mkdir /folder; ln -s kept /link; rm /etc/old; stat -c %a:%u:%g /kept");
    fs::write(bundle.rootfs().join("etc/old"), "old").unwrap();
    assert_eq!(host.run(&bundle).output().success(), "644:0:0\n");
    let rootfs = bundle.rootfs();
    assert_eq!(fs::read_to_string(rootfs.join("kept")).unwrap(), "data\n");
    assert!(rootfs.join("folder").is_dir());
    assert_eq!(fs::read_link(rootfs.join("link")).unwrap().to_str(), Some("kept"));
    assert!(!rootfs.join("etc/old").exists());
}

#[test]
fn bind_mounts_show_changes_both_ways_and_read_only_ones_refuse() {
    let host = Host::new();
    let writable = host.directory("writable");
    let fixed = host.directory("fixed");
    let file = host.file("single", "one file\n");
    for folder in [&writable, &fixed] {
        fs::write(folder.join("file"), "first\n").unwrap();
    }
    // The guest may take what it knows of a name for true for a second.
    let script = "
        cat /rw/file /ro/file /etc/single
        echo from the guest > /rw/guest
        touch /ro/new; echo x > /ro/file; rm /ro/file
        echo ready; read x; sleep 2
        cat /rw/file /ro/file /rw/new /ro/new; ls /rw; echo changed; read x; sleep 2
        cat /rw/file /ro/file; ls /ro";
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        add_mount(
            config,
            json!({"destination": "/rw", "source": writable, "options": ["bind", "rw"]}),
        );
        add_mount(
            config,
            json!({"destination": "/ro", "source": fixed, "options": ["rbind", "ro"]}),
        );
        add_mount(
            config,
            json!({"destination": "/etc/single", "source": file, "options": ["bind"]}),
        );
    });
    let mut running = host.run(&bundle).spawn();
    running.wait_for("ready\n");
    assert_eq!(
        fs::read_to_string(writable.join("guest")).unwrap(),
        "from the guest\n"
    );

    // A file that the guest has read, with as many bytes as before; and new ones.
    for folder in [&writable, &fixed] {
        fs::write(folder.join("file"), "again\n").unwrap();
        fs::write(folder.join("new"), "new on the host\n").unwrap();
    }
    running.send("\n");
    running.wait_for("changed\n");

    // Replaced by another file, of another length; and one is gone.
    for folder in [&writable, &fixed] {
        fs::write(folder.join("other"), "renamed over it\n").unwrap();
        fs::rename(folder.join("other"), folder.join("file")).unwrap();
        fs::remove_file(folder.join("new")).unwrap();
    }
    running.send("\n");
    let output = running.wait().with_code(0);
    assert_eq!(
        output.stdout(),
        "first\nfirst\none file\nready\n\
         again\nagain\nnew on the host\nnew on the host\nfile\nguest\nnew\nchanged\n\
         renamed over it\nrenamed over it\nfile\n",
        "{output:?}"
    );
    assert_eq!(
        output.stderr().matches("Read-only file system").count(),
        3,
        "{output:?}"
    );
    assert_eq!(fs::read_dir(&fixed).unwrap().count(), 1);
}

#[test]
fn mounts_happen_in_order_with_their_options() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        let script = "grep -E ' /(scratch|scratch/inner) ' /proc/self/mounts | cut -d' ' -f2-4; cat /scratch/inner/file
            df -k /scratch | tail -n 1 | awk '{print $2}'";
        config["process"]["args"] = json!(["sh", "-c", script]);
        let inner = host.directory("inner");
        fs::write(inner.join("file"), "inner\n").unwrap();
        add_mount(
            config,
            json!({
                "destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "nodev", "noexec", "size=4m", "mode=700"],
            }),
        );
        add_mount(config, json!({"destination": "/scratch/inner", "source": inner, "options": ["bind", "ro", "nosuid"]}));
    });
    let output = host.run(&bundle).output().success();
    let lines: Vec<_> = output.lines().collect();
    let [scratch, inner, contents, size] = lines[..] else {
        panic!("{output}")
    };
    assert!(
        scratch.starts_with("/scratch tmpfs rw,nosuid,nodev,noexec,"),
        "{output}"
    );
    assert!(scratch.contains("size=4096k,mode=700"), "{output}");
    assert!(inner.starts_with("/scratch/inner virtiofs ro,nosuid"), "{output}");
    assert_eq!((contents, size), ("inner", "4096"));
}

/// A link in the image must not lead a mount out of the container's root.
#[test]
fn links_in_the_image_do_not_lead_mounts_astray() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "cat /away/inside/file; ls /target/inside"]);
        let source = host.directory("source");
        fs::write(source.join("file"), "mounted\n").unwrap();
        add_mount(
            config,
            json!({"destination": "/away/inside", "source": source, "options": ["bind"]}),
        );
    });
    fs::create_dir(bundle.rootfs().join("target")).unwrap();
    std::os::unix::fs::symlink("/target", bundle.rootfs().join("away")).unwrap();
    assert_eq!(host.run(&bundle).output().success(), "mounted\nfile\n");
}

#[test]
fn a_read_only_bind_leaves_what_is_mounted_below_writable_unless_it_is_recursive() {
    let host = Host::new();
    let source = host.directory("source");
    fs::create_dir(source.join("below")).unwrap();
    let below = source.join("below");
    mount(
        Some("none"),
        &below,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let bundle = host.bundle(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        for (destination, option) in [("/top", "ro"), ("/all", "rro")] {
            mounts.push(json!({
                "destination": destination, "type": "bind", "source": source, "options": ["rbind", option],
            }));
        }
        let script =
            "for d in /top /top/below /all /all/below; do touch $d/x 2>/dev/null && echo $d; done; true";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let output = host.run(&bundle).output();
    umount(&below).unwrap();
    assert_eq!(output.success(), "/top/below\n");
}
