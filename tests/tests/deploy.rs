//! What a Kubernetes node is given by `deploy/kubernetes`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bulkhead_tests::harness::containerd_program;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/kubernetes")
        .join(name)
}

/// Installs from a folder on a node, whose containerd is restarted by making a file.
fn install(folder: &Path) -> Output {
    let restart = format!("touch {}", folder.join("restarts").display());
    let mut install = Command::new(deploy("install-on-node"));
    install
        .env("SOURCE", folder.join("source"))
        .env("NODE", folder.join("node"))
        .env("RESTART", restart);
    install.output().unwrap()
}

/// The configuration that the node's containerd prints as its default, which imports nothing.
fn default_settings() -> String {
    let default = Command::new(containerd_program("containerd"))
        .args(["config", "default"])
        .output()
        .unwrap();
    let default = String::from_utf8(default.stdout).unwrap();
    assert!(default.contains("\nimports = []\n"), "{default}");
    default
}

#[test]
fn a_node_is_told_of_bulkhead_once() {
    tell_a_node(&default_settings());
}

#[test]
fn a_node_whose_containerd_imports_nothing_is_told_of_bulkhead() {
    tell_a_node(&default_settings().replace("\nimports = []\n", "\n"));
}

fn tell_a_node(default: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let settings = folder.join("node/etc/containerd/config.toml");
    let program = folder.join("node/opt/bulkhead/bin/bulkhead");
    fs::create_dir_all(folder.join("source/bin")).unwrap();
    fs::write(folder.join("source/bin/bulkhead"), "first").unwrap();
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(&settings, default).unwrap();

    let installed = install(folder);
    assert!(installed.status.success(), "{installed:?}");
    fs::remove_file(folder.join("restarts")).expect("containerd was restarted");
    let running = fs::metadata(&program).unwrap().ino();
    fs::write(folder.join("source/bin/bulkhead"), "second").unwrap();
    let open = fs::File::open(&program).unwrap();
    assert!(install(folder).status.success());
    assert!(!folder.join("restarts").exists(), "nothing new for containerd");
    assert_eq!(fs::read_to_string(&program).unwrap(), "second");
    assert_ne!(
        fs::metadata(&program).unwrap().ino(),
        running,
        "a program that runs is not written to"
    );
    drop(open);

    // The node's containerd sees the files where the script has named them; here they are below a folder.
    let text = fs::read_to_string(&settings).unwrap();
    assert_eq!(text.matches("imports").count(), 1, "{text}");
    let etc = folder.join("node/etc/containerd");
    fs::write(
        &settings,
        text.replace("/etc/containerd/conf.d", &format!("{}/conf.d", etc.display())),
    )
    .unwrap();
    let dump = Command::new(containerd_program("containerd"))
        .arg("--config")
        .arg(&settings)
        .args(["config", "dump"])
        .output();
    let dump = String::from_utf8(dump.unwrap().stdout).unwrap();
    // 2.x quotes with apostrophes.
    let dump = dump.replace('\'', "\"");
    for line in [
        ".containerd.runtimes.bulkhead]",
        "runtime_type = \"io.containerd.bulkhead.v2\"",
        "runtime_path = \"/opt/bulkhead/bin/containerd-shim-bulkhead-v2\"",
    ] {
        assert!(dump.contains(line), "no {line} in {dump}");
    }
}

#[test]
fn imports_of_another_kind_are_left_to_the_administrator() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let settings = folder.join("node/etc/containerd/config.toml");
    fs::create_dir_all(folder.join("source")).unwrap();
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let text = "imports = [\"/etc/other.toml\"]\nversion = 2\n";
    fs::write(&settings, text).unwrap();
    let refused = install(folder);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("/etc/containerd/conf.d/*.toml"),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(&settings).unwrap(), text);
    assert!(!folder.join("restarts").exists());
}

#[test]
fn the_overhead_is_what_the_configuration_gives_the_guest_and_the_hosts_side() {
    let class = fs::read_to_string(deploy("runtimeclass.yaml")).unwrap();
    assert!(
        class.contains("handler: bulkhead\n") && class.contains("memory: 80Mi\n"),
        "{class}"
    );
    let settings = fs::read_to_string(deploy("../../docs/configuration.md")).unwrap();
    assert!(
        settings.contains("| `memory_overhead_mib` | 64 |"),
        "80 MiB are those and 16 for the host's side"
    );
}
