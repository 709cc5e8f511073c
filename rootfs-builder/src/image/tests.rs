use super::*;
use crate::testing::executable;

fn agent() -> Agent {
    Agent::from_bytes(executable(300_001)).expect("a fit agent")
}

fn image(format: Format, folder: &Path, name: &str) -> Vec<u8> {
    let path = folder.join(name);
    write_file(&agent(), format, &path).expect("an image");
    fs::read(path).expect("read")
}

fn stdout(name: &str, arguments: &[&OsStr]) -> String {
    let output = tool(name).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{name}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn ext4_holds_the_agent_and_is_reproducible() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(
        image(Format::Ext4, folder.path(), "a"),
        image(Format::Ext4, folder.path(), "b")
    );
    let path = folder.path().join("a");
    stdout("e2fsck", &["-fn".as_ref(), path.as_ref()]);
    let list = stdout("debugfs", &["-R".as_ref(), "ls -l /".as_ref(), path.as_ref()]);
    let modes: Vec<(&str, &str, &str)> = list
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some((*words.last()?, *words.get(1)?, *words.get(3)?))
        })
        .filter(|(name, ..)| ENTRIES.iter().any(|entry| entry.path == *name))
        .collect();
    assert_eq!(
        modes,
        [
            ("dev", "40755", "0"),
            ("init", "100755", "0"),
            ("proc", "40555", "0"),
            ("run", "40755", "0"),
            ("sys", "40555", "0"),
            ("tmp", "41777", "0"),
        ]
    );
    let console = stdout(
        "debugfs",
        &["-R".as_ref(), "stat /dev/console".as_ref(), path.as_ref()],
    );
    assert!(console.contains("Type: character special"), "{console}");
    assert!(console.contains("Device major/minor number: 05:01"), "{console}");
    let copy = folder.path().join("copy");
    let dump = format!("dump /init {}", copy.display());
    stdout("debugfs", &["-R".as_ref(), dump.as_ref(), path.as_ref()]);
    assert_eq!(fs::read(copy).expect("copied out"), agent().bytes());
}

#[test]
fn erofs_holds_the_agent_and_is_reproducible() {
    let folder = tempfile::tempdir().expect("a folder");
    if !nix::unistd::geteuid().is_root() {
        let error =
            write_file(&agent(), Format::Erofs, &folder.path().join("a")).expect_err("no right to mknod");
        assert!(error.to_string().contains("run as root"), "{error}");
        return;
    }
    assert_eq!(
        image(Format::Erofs, folder.path(), "a"),
        image(Format::Erofs, folder.path(), "b")
    );
    let path = folder.path().join("a");
    let init = stdout("dump.erofs", &["--path=/init".as_ref(), path.as_ref()]);
    assert!(init.contains("Size: 300001"), "{init}");
    assert!(init.contains("Access: 0755/rwxr-xr-x"), "{init}");
    let console = stdout("dump.erofs", &["--path=/dev/console".as_ref(), path.as_ref()]);
    assert!(console.contains("Access: 0600"), "{console}");
    stdout("fsck.erofs", &[path.as_ref()]);
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let error = run(
        "mkfs.erofs",
        "erofs-utils",
        &mut tool("/nonexistent/mkfs.erofs"),
        b"",
    )
    .expect_err("missing");
    assert_eq!(
        error.to_string(),
        "mkfs.erofs is missing: apt-get install erofs-utils"
    );
}

#[test]
fn a_failing_program_is_quoted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mke2fs = tool("mke2fs");
    let error = run("mke2fs", "e2fsprogs", mke2fs.arg(folder.path()), b"").expect_err("a directory");
    assert!(error.to_string().starts_with("mke2fs failed: "), "{error}");
}
