//! mounts and root.

use std::{fs, path::PathBuf};

use bulkhead_tests::harness::Host;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::checks::{Check, bundle, check, push, refused, refused_on, run};

/// A mount of the host's that goes away again.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// The options of the mount at a place: its own, then its file system's.
fn options_at(place: &str) -> String {
    format!("awk '$5 == \"{place}\" {{ print $6 }}' /proc/self/mountinfo")
}

#[test]
fn options_become_attributes_of_the_mount() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("none", &[], "rw,relatime"),
        (
            "words",
            &[
                "defaults",
                "loud",
                "silent",
                "iversion",
                "noiversion",
                "nomand",
                "norelatime",
            ],
            "rw,relatime",
        ),
        ("ro", &["ro"], "ro,relatime"),
        ("rw", &["ro", "rw"], "rw,relatime"),
        (
            "no",
            &["nosuid", "nodev", "noexec"],
            "rw,nosuid,nodev,noexec,relatime",
        ),
        (
            "yes",
            &["nosuid", "nodev", "noexec", "suid", "dev", "exec"],
            "rw,relatime",
        ),
        ("noatime", &["noatime"], "rw,noatime"),
        ("atime", &["noatime", "atime"], "rw,relatime"),
        ("strictatime", &["strictatime"], "rw"),
        ("nostrictatime", &["strictatime", "nostrictatime"], "rw,relatime"),
        ("nodiratime", &["nodiratime"], "rw,nodiratime,relatime"),
        ("diratime", &["nodiratime", "diratime"], "rw,relatime"),
        ("nosymfollow", &["nosymfollow"], "rw,relatime,nosymfollow"),
        ("symfollow", &["nosymfollow", "symfollow"], "rw,relatime"),
        (
            "recursive",
            &[
                "rro",
                "rnosuid",
                "rnodev",
                "rnoexec",
                "rnodiratime",
                "rnosymfollow",
                "rnoatime",
            ],
            "ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow",
        ),
        (
            "undone",
            &[
                "rro",
                "rnosuid",
                "rnoatime",
                "rrw",
                "rsuid",
                "rdev",
                "rexec",
                "rdiratime",
                "rsymfollow",
                "ratime",
            ],
            "rw,relatime",
        ),
        ("rstrict", &["rstrictatime"], "rw"),
        (
            "rrelatime",
            &["rstrictatime", "rrelatime", "rnorelatime", "rnostrictatime"],
            "rw,relatime",
        ),
    ];
    let questions: Vec<(String, String)> = cases
        .iter()
        .map(|(name, _, _)| {
            (
                format!("mounts[].options {name}"),
                options_at(&format!("/m/{name}")),
            )
        })
        .collect();
    let mut checks: Vec<Check<'_>> = questions
        .iter()
        .zip(cases)
        .map(|((field, command), (_, _, expected))| (field.as_str(), command.as_str(), *expected))
        .collect();
    checks.extend([
        (
            "nosymfollow",
            "ln -s /etc/hostname /m/nosymfollow/link; cat /m/nosymfollow/link",
            "cat: can't open '/m/nosymfollow/link': Too many levels of symbolic links",
        ),
        (
            "sync, dirsync, lazytime",
            "awk '$5 == \"/m/flags\" { print $NF }' /proc/self/mountinfo | tr , '\\n' | grep -E 'sync|lazy' | sort",
            "dirsync\nlazytime\nsync",
        ),
        (
            "async, nolazytime",
            "awk '$5 == \"/m/unflagged\" { print $NF }' /proc/self/mountinfo | tr , '\\n' | grep -cE 'sync|lazy'",
            "0",
        ),
        ("size", "df -k /m/size | tail -n 1 | awk '{print $2}'; stat -c %a /m/size", "64\n711"),
        ("remount", "awk '$5 == \"/m/again\" { print $6 }' /proc/self/mountinfo", "ro,noexec,relatime"),
    ]);
    check(
        |config| {
            let mut add = |name: &str, options: &[&str]| {
                let place = format!("/m/{name}");
                push(
                    config,
                    "mounts",
                    json!({"destination": place, "type": "tmpfs", "source": "x", "options": options}),
                );
            };
            for (name, options, _) in cases {
                add(name, options);
            }
            add("flags", &["sync", "dirsync", "lazytime"]);
            add("unflagged", &["sync", "async", "lazytime", "nolazytime"]);
            add("size", &["size=64k", "mode=711"]);
            add("again", &[]);
            push(
                config,
                "mounts",
                json!({"destination": "/m/again", "options": ["remount", "bind", "ro", "noexec"]}),
            );
        },
        &checks,
    );
}

#[test]
fn propagation_is_as_asked_for() {
    let kind = |place: &str| {
        format!(
            "awk '$5 == \"{place}\" {{ for (i = 7; $i != \"-\"; i++) print $i }}' /proc/self/mountinfo | cut -d: -f1"
        )
    };
    let places = [
        "/p/shared",
        "/p/private",
        "/p/unbindable",
        "/p/slave",
        "/p/rshared",
    ];
    let commands = places.map(kind);
    let [shared, private, unbindable, slave, rshared] = &commands;
    let root = kind("/");
    check(
        |config| {
            for (place, options) in
                places
                    .iter()
                    .zip([["shared"], ["private"], ["unbindable"], ["slave"], ["rshared"]])
            {
                push(
                    config,
                    "mounts",
                    json!({"destination": place, "type": "tmpfs", "source": "x", "options": options}),
                );
            }
            config["linux"]["rootfsPropagation"] = json!("shared");
        },
        &[
            ("shared", shared, "shared"),
            ("private", private, ""),
            ("unbindable", unbindable, "unbindable"),
            ("slave", slave, ""),
            ("rshared", rshared, "shared"),
            ("linux.rootfsPropagation", &root, "shared"),
        ],
    );
    refused(
        |config| config["linux"]["rootfsPropagation"] = json!("public"),
        &["linux.rootfsPropagation", "public"],
    );
}

#[test]
fn binds_are_relative_to_the_bundle_and_in_order() {
    let host = Host::new();
    let checks = [
        ("source", "cat /data/file", "of the bundle"),
        (
            "order",
            "ls /data /data/over",
            "/data:\nfile\nover\n\n/data/over:\nlast",
        ),
        (
            "tmpcopyup",
            "cat /etc/copied/file; stat -c %a /etc/copied/file; touch /etc/copied/new; ls /etc/copied",
            "content\n640\nfile\nnew",
        ),
        ("root.readonly", "touch /x", "touch: /x: Read-only file system"),
        ("made", "stat -c %F /made/file", "regular empty file"),
    ];
    let bundle = bundle(
        &host,
        |config| {
            config["root"]["readonly"] = json!(true);
            let mut add = |mount| push(config, "mounts", mount);
            add(json!({"destination": "/data", "source": "data", "options": ["bind"]}));
            add(json!({"destination": "/data/over", "source": "first", "options": ["bind"]}));
            add(json!({"destination": "/data/over", "source": "last", "type": "bind"}));
            add(json!({"destination": "/made/file", "source": "empty", "options": ["rbind", "ro"]}));
            add(
                json!({"destination": "/etc/copied", "type": "tmpfs", "source": "x", "options": ["tmpcopyup"]}),
            );
        },
        &checks,
    );
    for folder in ["data/over", "first", "last", "rootfs/etc/copied"] {
        fs::create_dir_all(bundle.folder().join(folder)).unwrap();
    }
    fs::write(bundle.folder().join("data/file"), "of the bundle\n").unwrap();
    fs::write(bundle.folder().join("first/first"), "").unwrap();
    fs::write(bundle.folder().join("last/last"), "").unwrap();
    fs::write(bundle.folder().join("empty"), "").unwrap();
    let copied = bundle.rootfs().join("etc/copied/file");
    fs::write(&copied, "content\n").unwrap();
    fs::set_permissions(&copied, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    run(&host, &bundle, &checks);
    assert!(!bundle.rootfs().join("etc/copied/new").exists());
}

#[test]
fn what_is_mounted_below_a_source_comes_with_rbind_and_gets_recursive_attributes() {
    let host = Host::new();
    let checks = [
        ("bind", "ls /plain/below", ""),
        (
            "rbind",
            "cat /whole/below/file; echo x > /whole/below/new && echo written",
            "below\nwritten",
        ),
        (
            "rro",
            "cat /fixed/below/file; touch /fixed/below/new",
            "below\ntouch: /fixed/below/new: Read-only file system",
        ),
        (
            "rnoexec",
            "sh -c /noexec/below/program",
            "sh: /noexec/below/program: Permission denied",
        ),
        ("exec", "/whole/below/program", "runs"),
    ];
    let source = host.directory("source");
    let below = Mounted::tmpfs(source.join("below"));
    fs::write(below.0.join("file"), "below\n").unwrap();
    let program = below.0.join("program");
    fs::write(&program, "#!/bin/sh\necho runs\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bundle = bundle(
        &host,
        |config| {
            for (place, options) in [
                ("/plain", vec!["bind"]),
                ("/whole", vec!["rbind"]),
                ("/fixed", vec!["rbind", "rro"]),
                ("/noexec", vec!["rbind", "rnoexec"]),
            ] {
                push(
                    config,
                    "mounts",
                    json!({"destination": place, "source": source, "options": options}),
                );
            }
        },
        &checks,
    );
    run(&host, &bundle, &checks);
    assert!(below.0.join("new").exists());
}

#[test]
fn mapped_binds_show_and_keep_other_owners() {
    use std::os::unix::fs::{MetadataExt, chown};
    let host = Host::new();
    let checks = [
        (
            "uidMappings",
            "stat -c %u:%g /own /own/file; touch /own/made",
            "1000:2000\n1000:2000",
        ),
        ("not recursive", "stat -c %u:%g /own/below", "0:0"),
        (
            "ridmap",
            "stat -c %u:%g /whole /whole/below",
            "1000:2000\n1000:2000",
        ),
        ("unmapped", "stat -c %u:%g /own/others", "65534:65534"),
        ("plain", "stat -c %u:%g /plain/file", "0:0"),
    ];
    let source = Mounted::tmpfs(host.directory("source"));
    let below = Mounted::tmpfs(source.0.join("below"));
    for name in ["file", "others"] {
        fs::write(source.0.join(name), "").unwrap();
    }
    chown(source.0.join("others"), Some(77), Some(77)).unwrap();
    let bundle = bundle(
        &host,
        |config| {
            let users = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
            let groups = json!([{"containerID": 0, "hostID": 2000, "size": 10}]);
            config["process"]["user"] = json!({"uid": 1000, "gid": 2000});
            for (place, option) in [("/own", "idmap"), ("/whole", "ridmap")] {
                push(
                    config,
                    "mounts",
                    json!({
                        "destination": place, "source": source.0, "options": ["rbind", option],
                        "uidMappings": users, "gidMappings": groups,
                    }),
                );
            }
            push(
                config,
                "mounts",
                json!({"destination": "/plain", "source": source.0, "options": ["bind"]}),
            );
        },
        &checks,
    );
    run(&host, &bundle, &checks);
    let made = fs::metadata(source.0.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    drop(below);
    for (mount, words) in [
        (
            json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["idmap"]}),
            ["mounts[7].options", "uidMappings"],
        ),
        (
            json!({"destination": "/x", "source": "/", "options": ["bind"], "uidMappings": [{"size": 1}]}),
            ["mounts[7].gidMappings", "missing"],
        ),
    ] {
        refused_on(&host, |config| push(config, "mounts", mount), &words);
    }
}
