//! L1's initramfs for the bench: everything that is measured, with the libraries it needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::experiments::{GUEST_MEMORY_MIB, Measurement, ROOT, paths};
use super::plan::{self, Plan, VMM};
use super::suite::Suite;
use super::{Bench, BenchError, floor, greeter};
use crate::testbed::initramfs::Archive;
use crate::testbed::kernel::Kernel;
use crate::testbed::tool;

/// Programs of this machine that are measured or that containers run.
const PROGRAMS: [&str; 5] = [
    "qemu-system-x86_64",
    "runc",
    "crun",
    "containerd-shim-runc-v2",
    "busybox",
];

/// What QEMU's microvm machine reads from its data folder.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu/bios-microvm.bin", "/usr/share/qemu/qboot.rom"];

/// The program that measures input and output.
const IO: &str = "bulkhead-bench-io";

/// Commands of containers.
const APPLETS: [&str; 4] = ["true", "sh", "echo", "sleep"];

/// Writes the archive to `path`.
pub fn write(
    path: &Path,
    bench: &Bench,
    kernel: &Kernel,
    suite: Suite,
    measurements: &[Measurement],
    symbols: bool,
) -> Result<(), BenchError> {
    let archive = Archive::create(path).map_err(BenchError::file(path))?;
    let mut contents = Contents {
        archive,
        path,
        folders: BTreeSet::new(),
    };
    contents.archive.base(&beside_us("bulkhead-bench-l1"), kernel)?;

    for program in PROGRAMS {
        contents.program(program)?;
    }
    let ip = contents.program("ip")?;
    contents.symlink(paths::IP, &ip.to_string_lossy())?;
    for program in ["bulkhead", "bulkhead-vmm"] {
        contents.copy(&bench.binaries.join(program), &format!("/usr/bin/{program}"))?;
    }
    contents.symlink(paths::SHIM, "bulkhead")?;
    for file in FIRMWARE {
        contents.copy(Path::new(file), file)?;
    }
    contents.copy(&bench.kernel, paths::KERNEL)?;
    contents.copy(&bench.initramfs, paths::INITRAMFS)?;
    let greeter = with_program(&bench.initramfs, paths::GREETER, &greeter::elf())?;
    contents.file(paths::INITRAMFS_WITH_GREETER, &greeter)?;
    contents.file(paths::FLOOR, &floor::elf())?;
    contents.file(paths::EXITS, &floor::exits())?;
    contents.file(paths::CONFIG, settings().as_bytes())?;

    contents.copy(Path::new("/bin/busybox"), &format!("{ROOT}/bin/busybox"))?;
    for applet in APPLETS {
        contents.symlink(&format!("{ROOT}/bin/{applet}"), "busybox")?;
    }
    for folder in ["proc", "dev", "sys", "tmp"] {
        contents.folder(Path::new(ROOT).join(folder).as_path())?;
    }
    if suite != Suite::Start {
        contents.io(bench)?;
    }
    for bundle in suite.bundles() {
        let config = format!("{}/config.json", bundle.folder);
        contents.file(&config, bundle.config.to_string().as_bytes())?;
    }

    let plan = plan(measurements, symbols);
    contents.file(plan::FILE, &serde_json::to_vec(&plan).expect("representable"))?;
    contents.folder(Path::new("/tmp"))?;
    contents.archive.finish().map_err(BenchError::file(path))
}

/// What several measurements need is made once.
fn plan(measurements: &[Measurement], symbols: bool) -> Plan {
    let mut prepare: Vec<Vec<String>> = Vec::new();
    for command in measurements.iter().flat_map(|measurement| &measurement.prepare) {
        if !prepare.contains(command) {
            prepare.push(command.clone());
        }
    }
    let experiments = measurements
        .iter()
        .map(|measurement| measurement.experiment.clone())
        .collect();
    Plan {
        prepare,
        experiments,
        symbols,
    }
}

/// A kernel takes several archives behind each other.
fn with_program(initramfs: &Path, name: &str, program: &[u8]) -> Result<Vec<u8>, BenchError> {
    let mut archives = fs::read(initramfs).map_err(BenchError::file(initramfs))?;
    archives.resize(archives.len().next_multiple_of(4), 0);
    let folder = tempfile::tempdir().map_err(BenchError::file("a temporary folder"))?;
    let path = folder.path().join("program.cpio");
    let mut archive = Archive::create(&path).map_err(BenchError::file(&path))?;
    archive
        .executable(name.trim_start_matches('/'), program)
        .map_err(BenchError::file(&path))?;
    archive.finish().map_err(BenchError::file(&path))?;
    archives.extend(fs::read(&path).map_err(BenchError::file(&path))?);
    Ok(archives)
}

/// The testbed's programs are built together.
fn beside_us(name: &str) -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name(name)
}

fn settings() -> String {
    let file = |key: &str, path: &str| format!("{key} = \"{path}\"\n");
    file("kernel", paths::KERNEL)
        + &file("initramfs", paths::INITRAMFS)
        + &file("vmm", VMM)
        + &format!("memory_mib = {GUEST_MEMORY_MIB}\n")
}

struct Contents<'a> {
    archive: Archive,
    path: &'a Path,
    folders: BTreeSet<PathBuf>,
}

impl Contents<'_> {
    /// Adds a folder with its parents, unless it is there.
    fn folder(&mut self, folder: &Path) -> Result<(), BenchError> {
        if folder == Path::new("/") || !self.folders.insert(folder.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.folder(parent)?;
        }
        self.archive
            .folder(&relative(folder))
            .map_err(BenchError::file(self.path))
    }

    fn file(&mut self, to: &str, content: &[u8]) -> Result<(), BenchError> {
        self.folder(Path::new(to).parent().unwrap_or(Path::new("/")))?;
        self.archive
            .executable(&relative(Path::new(to)), content)
            .map_err(BenchError::file(self.path))
    }

    fn symlink(&mut self, name: &str, target: &str) -> Result<(), BenchError> {
        self.folder(Path::new(name).parent().unwrap_or(Path::new("/")))?;
        self.archive
            .symlink(&relative(Path::new(name)), target)
            .map_err(BenchError::file(self.path))
    }

    fn copy(&mut self, from: &Path, to: &str) -> Result<(), BenchError> {
        let content = fs::read(from).map_err(BenchError::file(from))?;
        self.file(to, &content)
    }

    /// Adds a program of this machine and its libraries, all where they are here, and says where that is.
    fn program(&mut self, name: &str) -> Result<PathBuf, BenchError> {
        let which = tool::output(Command::new("sh").args(["-c", "command -v \"$1\"", "sh", name]))?;
        let program = PathBuf::from(String::from_utf8_lossy(&which).trim());
        self.copy(&program, &program.to_string_lossy())?;
        for library in libraries(&program) {
            let to = library.to_string_lossy().into_owned();
            if self.folders.insert(library.clone()) {
                self.copy(&library, &to)?;
            }
        }
        Ok(program)
    }

    /// The program that measures input and output, where L1, containers and guests look for it.
    fn io(&mut self, bench: &Bench) -> Result<(), BenchError> {
        let path = bench.binaries.join(IO);
        let program = fs::read(&path).map_err(BenchError::file(&path))?;
        self.file(paths::IO, &program)?;
        self.file(&format!("{ROOT}{}", paths::IO_IN_CONTAINER), &program)?;
        let initramfs = with_program(&bench.initramfs, paths::IO_IN_GUEST, &program)?;
        self.file(paths::INITRAMFS_WITH_IO, &initramfs)
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix("/")
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

/// What ldd names, the dynamic linker too; nothing for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let Ok(listing) = tool::output(Command::new("ldd").arg(program)) else {
        return Vec::new();
    };
    String::from_utf8_lossy(&listing)
        .lines()
        .filter_map(library)
        .collect()
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<PathBuf> {
    let place = line.split("=>").last()?.trim();
    let file = place.split(" (").next()?;
    file.starts_with('/').then(|| PathBuf::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_where_ldd_says() {
        let line = |line| library(line).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(
            line("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)").as_deref(),
            Some("/lib/libc.so.6")
        );
        assert_eq!(
            line("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)").as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(line("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(line("\tstatically linked"), None);
    }
}
