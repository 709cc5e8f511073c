use std::io::Read;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::testing::executable;

fn agent(size: usize) -> Agent {
    Agent::from_bytes(executable(size)).expect("a fit agent")
}

fn archive(agent: &Agent) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(agent, &mut bytes).expect("memory is never full");
    bytes
}

/// `mode rdev-major,minor name` of each entry, and what is in the file `init`.
fn read_back(mut bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
    let (mut lines, mut init) = (Vec::new(), Vec::new());
    loop {
        let mut reader = newc::Reader::new(bytes).expect("an entry");
        let entry = reader.entry();
        if entry.is_trailer() {
            return (lines, init);
        }
        assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
        lines.push(format!(
            "{:o} {},{} {}",
            entry.mode(),
            entry.rdev_major(),
            entry.rdev_minor(),
            entry.name()
        ));
        if entry.name() == "init" {
            reader.read_to_end(&mut init).expect("the agent");
        }
        bytes = reader.finish().expect("the next entry");
    }
}

#[test]
fn debians_cpio_lists_the_entries() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("initramfs");
    write_file(&agent(4321), &path).expect("written");
    let list = Command::new("sh")
        .args(["-c", "cpio --list --verbose --numeric-uid-gid <\"$0\""])
        .arg(&path)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
        .expect("cpio runs");
    let list = String::from_utf8(list.stdout).expect("text");
    let lines: Vec<String> = list
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
            "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
            "-rwxr-xr-x 1 0 0 4321 Jan 1 1970 init",
            "dr-xr-xr-x 2 0 0 0 Jan 1 1970 proc",
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 run",
            "dr-xr-xr-x 2 0 0 0 Jan 1 1970 sys",
            "drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp",
        ]
    );
}

#[test]
fn the_same_agent_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, second] = ["first", "second"].map(|name| {
        let path = folder.path().join(name);
        write_file(&agent(4321), &path).expect("written");
        std::fs::read(path).expect("read")
    });
    assert_eq!(first, second);
    assert_eq!(first, archive(&agent(4321)));
    assert_ne!(first, archive(&agent(4322)));
}

#[test]
fn the_agent_begins_with_a_page() {
    let agent = agent(4321);
    let bytes = archive(&agent);
    let pages = bytes.chunks(4096);
    assert_eq!(
        pages.filter(|page| agent.bytes().starts_with(page)).count(),
        1,
        "no page begins as the agent does"
    );
}

#[test]
fn a_large_agent_arrives_whole() {
    let agent = agent(33 << 20);
    assert_eq!(read_back(&archive(&agent)).1, agent.bytes());
}

#[test]
fn a_failure_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("taken");
    std::fs::create_dir(&path).expect("a directory in the way");
    write_file(&agent(200), &path).expect_err("a directory is not replaced by a file");
    let names: Vec<_> = folder
        .path()
        .read_dir()
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(names, ["taken"]);
}

proptest! {
    /// Every entry starts at a multiple of four bytes, else the kernel loses its way; the archive ends on one too.
    #[test]
    fn any_size_is_padded(size in 120_usize..5000) {
        let agent = agent(size);
        let bytes = archive(&agent);
        prop_assert_eq!(bytes.len() % 4, 0);
        for at in 0..bytes.len() {
            if bytes[at..].starts_with(b"070701000000") {
                prop_assert_eq!(at % 4, 0);
            }
        }
        let (lines, init) = read_back(&bytes);
        prop_assert_eq!(lines.len(), ENTRIES.len());
        prop_assert_eq!(&lines[1], "20600 5,1 dev/console");
        prop_assert_eq!(init, agent.bytes());
    }
}
