//! What cannot work is refused in one line that says what and where, with exit code 1, and nothing is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bulkhead_tests::harness::{Bundle, Host, kernel};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

/// Runs the bundle, which must be refused in a line that has all these words.
#[track_caller]
fn assert_refused(host: &Host, bundle: &Bundle, words: &[&str]) {
    assert_names(&host.run(bundle).output().refusal(), words);
}

#[track_caller]
fn assert_names(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

/// Refuses a `config.json` that `edit` made wrong.
#[track_caller]
fn assert_config_refused(edit: impl FnOnce(&mut Value), words: &[&str]) {
    let host = Host::new();
    let bundle = host.bundle(edit);
    assert_refused(&host, &bundle, words);
}

#[test]
fn no_config_json() {
    let host = Host::new();
    let bundle = host.script("true");
    let config = bundle.config();
    fs::remove_file(&config).unwrap();
    assert_refused(&host, &bundle, &[config.to_str().unwrap(), "no such file"]);
}

#[test]
fn a_config_json_that_is_not_json() {
    let host = Host::new();
    let bundle = host.script("true");
    bundle.write_config(b"{\n  \"ociVersion\": 1.2.3\n}");
    assert_refused(&host, &bundle, &[bundle.config().to_str().unwrap(), "line 2"]);
    bundle.write_config(b"");
    assert_refused(&host, &bundle, &[bundle.config().to_str().unwrap()]);
    bundle.write_config(&[0xff; 100]);
    assert_refused(&host, &bundle, &[bundle.config().to_str().unwrap()]);
}

#[test]
fn a_config_json_that_is_no_file() {
    let host = Host::new();
    let bundle = host.script("true");
    let config = bundle.config();
    fs::remove_file(&config).unwrap();
    // Nobody will ever write to it.
    mkfifo(&config, Mode::S_IRWXU).unwrap();
    assert_refused(&host, &bundle, &[config.to_str().unwrap(), "not a regular file"]);
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert_refused(&host, &bundle, &[config.to_str().unwrap(), "not a regular file"]);
}

#[test]
fn an_unknown_major_version() {
    assert_config_refused(
        |config| config["ociVersion"] = json!("2.0.0"),
        &["config.json", "ociVersion", "2.0.0"],
    );
}

#[test]
fn a_field_of_the_wrong_type() {
    assert_config_refused(
        |config| config["process"]["user"]["uid"] = json!("root"),
        &["config.json", "process.user.uid"],
    );
}

#[test]
fn empty_args() {
    assert_config_refused(
        |config| config["process"]["args"] = json!([]),
        &["config.json", "process.args"],
    );
}

#[test]
fn a_relative_cwd() {
    assert_config_refused(
        |config| config["process"]["cwd"] = json!("tmp"),
        &["config.json", "process.cwd", "tmp", "absolute"],
    );
}

#[test]
fn a_field_that_is_not_honoured() {
    assert_config_refused(
        |config| config["linux"]["intelRdt"] = json!({"closID": "x"}),
        &["config.json", "linux.intelRdt"],
    );
}

#[test]
fn a_missing_rootfs() {
    let host = Host::new();
    let bundle = host.script("true");
    fs::remove_dir_all(bundle.rootfs()).unwrap();
    assert_refused(
        &host,
        &bundle,
        &[
            "config.json",
            "root.path",
            bundle.rootfs().to_str().unwrap(),
            "does not exist",
        ],
    );
}

#[test]
fn a_rootfs_that_is_a_file() {
    let host = Host::new();
    let bundle = host.script("true");
    fs::remove_dir_all(bundle.rootfs()).unwrap();
    fs::write(bundle.rootfs(), "").unwrap();
    assert_refused(
        &host,
        &bundle,
        &[
            "config.json",
            "root.path",
            bundle.rootfs().to_str().unwrap(),
            "not a folder",
        ],
    );
}

#[test]
fn a_bundle_that_is_a_file() {
    let host = Host::new();
    let file = host.file("bundle", "");
    let output = host
        .bulkhead()
        .args(["run", "--bundle"])
        .arg(&file)
        .arg("id")
        .output();
    assert_names(&output.refusal(), &[file.to_str().unwrap(), "director"]);
}

#[test]
fn a_bundle_that_does_not_exist() {
    let host = Host::new();
    let nowhere = host.folder().join("nowhere");
    let output = host
        .bulkhead()
        .args(["run", "--bundle"])
        .arg(&nowhere)
        .arg("id")
        .output();
    assert_names(
        &output.refusal(),
        &[nowhere.to_str().unwrap(), "No such file or directory"],
    );
}

#[test]
fn a_bind_source_that_does_not_exist() {
    assert_config_refused(
        |config| {
            let mount = json!({"destination": "/data", "source": "/no/such/source", "options": ["bind"]});
            config["mounts"].as_array_mut().unwrap().push(mount);
        },
        &[
            "config.json",
            "mounts[7].source",
            "/no/such/source",
            "does not exist",
        ],
    );
}

#[test]
fn a_program_that_is_not_there() {
    assert_config_refused(
        |config| config["process"]["args"] = json!(["no-such-program"]),
        &["no-such-program", "executable file not found in $PATH"],
    );
    assert_config_refused(
        |config| config["process"]["args"] = json!(["/bin/no-such-program"]),
        &["/bin/no-such-program", "no such file or directory"],
    );
}

#[test]
fn a_program_that_is_not_executable() {
    let host = Host::new();
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/bin/data"]));
    fs::write(bundle.rootfs().join("bin/data"), "#!/bin/sh\n").unwrap();
    assert_refused(&host, &bundle, &["/bin/data", "permission denied"]);
}

#[test]
fn a_program_of_the_wrong_format() {
    let host = Host::new();
    let bundle = host.bundle(|config| config["process"]["args"] = json!(["/bin/data"]));
    let program = bundle.rootfs().join("bin/data");
    fs::write(&program, "\x7fELF, but not really").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert_refused(&host, &bundle, &["/bin/data", "exec format error"]);
}

#[test]
fn a_failing_mount_is_named() {
    assert_config_refused(
        |config| {
            let mount = json!({"destination": "/strange", "type": "nosuchfs", "source": "none"});
            config["mounts"].as_array_mut().unwrap().push(mount);
        },
        &["/strange", "No such device"],
    );
}

#[test]
fn an_identifier_with_a_slash() {
    let host = Host::new();
    let bundle = host.script("true");
    for id in ["a/b", "../escape", "..", "."] {
        let line = host.run_as(&bundle, id).output().refusal();
        assert_names(&line, &[&format!("{id:?}")]);
    }
    assert!(!host.folder().join("escape").exists());
}

#[test]
fn an_identifier_of_300_characters() {
    let host = Host::new();
    let id = "x".repeat(300);
    let line = host.run_as(&host.script("true"), &id).output().refusal();
    assert_names(&line, &["300"]);
}

#[test]
fn an_empty_identifier() {
    let host = Host::new();
    let line = host.run_as(&host.script("true"), "").output().refusal();
    assert_names(&line, &["empty"]);
}

#[test]
fn an_identifier_in_use() {
    let host = Host::new();
    let bundle = host.script("echo ready; read x; echo unharmed");
    let mut running = host.run_as(&bundle, "taken").spawn();
    running.wait_for("ready");
    let line = host.run_as(&bundle, "taken").output().refusal();
    assert_names(&line, &["taken", "already exists"]);
    running.send("\n");
    assert_eq!(running.wait().success(), "ready\nunharmed\n");
}

/// Hides /dev/kvm, and gives what else of /dev a run may want.
const WITHOUT_KVM: &str = "mount -t tmpfs tmpfs /mnt
    for device in null zero full random urandom tty; do cp -a /dev/$device /mnt/; done
    mount --move /mnt /dev";

#[test]
fn no_dev_kvm() {
    let host = Host::new();
    let bundle = host.script("true");
    let line = host
        .run(&bundle)
        .in_mount_namespace(WITHOUT_KVM)
        .output()
        .refusal();
    assert_names(&line, &["/dev/kvm", "No such file or directory"]);
}

#[test]
fn a_dev_kvm_that_is_something_else() {
    let host = Host::new();
    let bundle = host.script("true");
    let setup = "mount --bind /dev/null /dev/kvm";
    let line = host.run(&bundle).in_mount_namespace(setup).output().refusal();
    assert_names(&line, &["/dev/kvm"]);
}

#[test]
fn a_kvm_that_cannot_run_stock_guests() {
    let host = Host::new();
    let line = host.run(&host.script("true")).output_with_poor_kvm().refusal();
    assert_names(&line, &["KVM", "stock guest", "bulkhead check"]);
}

/// Runs with `setting` set to a file with these contents, or to none; it must be refused in a line with these words.
#[track_caller]
fn assert_file_refused(setting: &str, contents: Option<&[u8]>, words: &[&str]) {
    let mut host = Host::new();
    let path = host.folder().join("the-file");
    if let Some(contents) = contents {
        fs::write(&path, contents).unwrap();
    }
    host.settings
        .insert(setting.into(), path.to_str().unwrap().into());
    let line = host.run(&host.script("true")).output().refusal();
    assert_names(&line, &[setting]);
    assert_names(&line, words);
}

#[test]
fn a_missing_kernel() {
    assert_file_refused("kernel", None, &["/the-file", "No such file or directory"]);
}

#[test]
fn an_empty_kernel() {
    assert_file_refused("kernel", Some(b""), &["/the-file", "empty"]);
}

#[test]
fn a_truncated_kernel() {
    let whole = fs::read(kernel()).unwrap();
    for length in [whole.len() / 2, 60] {
        assert_file_refused("kernel", Some(&whole[..length]), &["truncated"]);
    }
}

#[test]
fn a_kernel_that_is_none() {
    assert_file_refused("kernel", Some(&[b'x'; 100_000]), &["/the-file", "ELF"]);
}

#[test]
fn a_missing_initramfs() {
    assert_file_refused("initramfs", None, &["/the-file", "No such file or directory"]);
}

#[test]
fn an_empty_initramfs() {
    assert_file_refused("initramfs", Some(b""), &["/the-file", "empty"]);
}

#[test]
fn a_file_that_is_no_initramfs() {
    assert_file_refused("initramfs", Some(&[b'x'; 100_000]), &["/the-file", "cpio"]);
}

/// Starts with an archive's first bytes, so it is the guest that finds out.
#[test]
fn a_truncated_initramfs() {
    let mut host = Host::new();
    let whole = fs::read(host.settings["initramfs"].as_str().unwrap()).unwrap();
    let half = host.file("half-an-initramfs", &whole[..whole.len() / 2]);
    host.settings
        .insert("initramfs".into(), half.to_str().unwrap().into());
    let output = host.run(&host.script("true")).output().with_code(1);
    assert_eq!(output.stdout(), "", "{output:?}");
    let stderr = output.stderr();
    assert_names(stderr.lines().next().unwrap_or_default(), &["panic"]);
    assert_names(&stderr, &["guest: ", "Kernel panic - not syncing"]);
}

#[test]
fn a_guest_whose_kernel_panics() {
    let mut host = Host::new();
    host.settings
        .insert("kernel_parameters".into(), "rdinit=/no-such-init".into());
    let output = host.run(&host.script("true")).output().with_code(1);
    assert_eq!(output.stdout(), "", "{output:?}");
    let stderr = output.stderr();
    assert_names(
        stderr.lines().next().unwrap_or_default(),
        &["boot guest", "panic", "No working init found"],
    );
    assert_names(
        &stderr,
        &["guest: ", "Kernel panic - not syncing: No working init found"],
    );
}

#[test]
fn memory_too_small_to_boot() {
    let mut host = Host::new();
    host.settings.insert("memory_mib".into(), 16.into());
    let output = host.run(&host.script("true")).output().with_code(1);
    assert_eq!(output.stdout(), "", "{output:?}");
    assert_names(output.stderr().lines().next().unwrap_or_default(), &["memory"]);
}

#[test]
fn no_memory_at_all() {
    let mut host = Host::new();
    host.settings.insert("memory_mib".into(), 0.into());
    let line = host.run(&host.script("true")).output().refusal();
    assert_names(&line, &["config.toml", "memory_mib"]);
}

#[test]
fn an_agent_that_never_answers() {
    let mut host = Host::new();
    let initramfs = host.initramfs_of("mute-agent");
    host.settings
        .insert("initramfs".into(), initramfs.to_str().unwrap().into());
    host.settings.insert("boot_timeout_seconds".into(), 15.into());
    let output = host.run(&host.script("true")).output().with_code(1);
    assert_eq!(output.stdout(), "", "{output:?}");
    let stderr = output.stderr();
    assert_names(stderr.lines().next().unwrap_or_default(), &["agent", "15"]);
    assert_names(&stderr, &["the mute agent is up"]);
}

#[test]
fn a_full_disk_in_the_state_folder() {
    let host = Host::new();
    let bundle = host.script("true");
    // One page, which is taken; folders need none.
    mount(
        Some("tmpfs"),
        &host.state(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=4k"),
    )
    .unwrap();
    fs::write(host.state().join("full"), [b'x'; 4096]).unwrap();
    let line = host.run(&bundle).output().refusal();
    assert_names(
        &line,
        &[host.state().to_str().unwrap(), "No space left on device"],
    );
    let left: Vec<_> = fs::read_dir(host.state())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["full"]);
    umount(&host.state()).unwrap();
}

#[test]
fn a_state_folder_that_is_a_file() {
    let host = Host::new();
    let file = host.file("state-file", "");
    let config = host.file("config.toml", host.settings.to_string());
    let output = host
        .bulkhead_with(&config, &file)
        .args(["run", "--bundle"])
        .arg(host.script("true").folder())
        .arg("id")
        .output();
    assert_names(&output.refusal(), &[file.to_str().unwrap()]);
}

#[test]
fn an_unknown_key_in_the_configuration() {
    let mut host = Host::new();
    host.settings.insert("memory_mb".into(), 128.into());
    let line = host.run(&host.script("true")).output().refusal();
    assert_names(&line, &["config.toml", "memory_mb", "memory_mib"]);
}

#[test]
fn a_configuration_that_is_not_there() {
    let host = Host::new();
    let nowhere = host.folder().join("nowhere.toml");
    let output = host
        .bulkhead_with(&nowhere, &host.state())
        .args(["run", "id"])
        .output();
    assert_names(
        &output.refusal(),
        &[nowhere.to_str().unwrap(), "No such file or directory"],
    );
}
